"""The Triton kernels of margin and its losses in Triton's interpreter."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from margin_checks import (
    EPSILON,
    LAMBDA,
    NUMBERS,
    Problem,
    check_gradients,
    check_loss,
    check_margin,
    problem,
    with_specials,
)

from gloro_fast.native import extension
from gloro_fast.ops.margin_loss_op import CRITERIA, margin_loss_reference
from gloro_fast.ops.margin_op import margin_reference

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
SHAPES = [(70, 10), (1, 2), (65, 12), (33, 17), (9, 16), (5, 200), (3, 1000), (2, 1501), (0, 5), (0, 40)]
DTYPES = [torch.float32, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_margin(interpreter: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits, differences, lipschitz = problem(*shape, dtype)
    margin = partial(interpreter.call, "margin", "margin")
    for f in (logits, with_specials(logits)):
        check_margin(margin, (f, differences, lipschitz))
        if len(f):  # the hardest epsilon: exactly one row's radius
            radius = float(margin_reference(f, differences, lipschitz, 0.0)[2][0])
            check_margin(margin, (f, differences, lipschitz), radius)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e38, 0.0])
def test_margin_where_bounds_are_not_finite_or_zero(interpreter: Any, bad: float) -> None:
    logits, differences, lipschitz = problem(30, 4)
    logits[3] = 1.0  # a tie
    margin = partial(interpreter.call, "margin", "margin")
    check_margin(margin, (logits, differences, lipschitz * bad))
    check_margin(margin, (logits, differences.index_fill(1, torch.tensor(2), bad), lipschitz))


@pytest.mark.parametrize("criterion", range(len(CRITERIA)))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[:-2])
def test_loss(interpreter: Any, shape: tuple[int, int], dtype: torch.dtype, criterion: int) -> None:
    check_loss(partial(interpreter.call, "margin_loss", "margin_loss"), problem(*shape, dtype), criterion)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 70), st.integers(2, 40), st.sampled_from(DTYPES), st.integers(0, 2))
def test_any_shape(interpreter: Any, rows: int, classes: int, dtype: torch.dtype, criterion: int) -> None:
    any_problem = problem(rows, classes, dtype)
    check_margin(partial(interpreter.call, "margin", "margin"), any_problem)
    check_loss(partial(interpreter.call, "margin_loss", "margin_loss"), any_problem, criterion)


@pytest.mark.parametrize("criterion", range(len(CRITERIA)))
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_logits(interpreter: Any, scale: float, criterion: int) -> None:
    logits, differences, lipschitz = problem(40, 10, scale=abs(scale))
    arguments = (logits.sign() * scale if scale < 0 else logits, differences, lipschitz)
    labels = torch.arange(40) % 10
    loss, _, _, share, *_ = interpreter.call(
        "margin_loss", "margin_loss", *arguments, NUMBERS[0], labels, criterion, NUMBERS[1]
    )
    exact = margin_loss_reference(*(t.double() for t in arguments), EPSILON, labels, CRITERIA[criterion], LAMBDA)[0]
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-7 * abs(scale))  # bottom itself is rounded
    assert share.isfinite().all()


@pytest.mark.parametrize("criterion", range(len(CRITERIA)))
def test_rows_in_doubt(interpreter: Any, criterion: int) -> None:
    """Never certified but as the reference does, and the loss infinite or NaN where that is."""
    logits, differences, lipschitz = problem(300, 5)
    logits = with_specials(logits)
    labels = torch.arange(300) % 5
    arguments, (epsilon, lam) = (logits, differences, lipschitz), NUMBERS
    loss, prediction, certified, *_ = interpreter.call(
        "margin_loss", "margin_loss", *arguments, epsilon, labels, criterion, lam
    )
    expected = margin_loss_reference(*arguments, EPSILON, labels, CRITERIA[criterion], LAMBDA)
    assert torch.equal(prediction, expected[1])
    assert torch.equal(certified, expected[2])
    assert not certified[~logits.isfinite().all(1)].any()
    # Numbers near the largest overflow in one order of operations and not in the other.
    sound = ~((logits.abs() >= torch.finfo(torch.float32).max / 4) & logits.isfinite()).any(1)
    assert sound.sum() > 100
    torch.testing.assert_close(loss[sound], expected[0][sound], rtol=1e-5, atol=1e-5, equal_nan=True)


def backwards(interpreter: Any, planted: tuple[str, str, str] | None = None) -> list[Any]:
    ops = ("margin", "margin_backward"), ("margin_loss", "margin_loss_backward")
    return [partial(interpreter.call, *op, planted=planted) for op in ops]


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 2), (2100, 3), (530, 10), (300, 17), (40, 130), (0, 10), (0, 40)])
def test_gradients(interpreter: Any, shape: tuple[int, int], step: int) -> None:
    check_gradients(*backwards(interpreter), *shape, step=step)


@pytest.mark.parametrize("shape", [(70, 10), (9, 40)])
def test_gradients_of_float16(interpreter: Any, shape: tuple[int, int]) -> None:
    check_gradients(*backwards(interpreter), *shape, dtype=torch.float16)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 90), st.integers(2, 40), st.integers(0, 3))
def test_gradients_of_any_shape(interpreter: Any, rows: int, classes: int, step: int) -> None:
    check_gradients(*backwards(interpreter), rows, classes, step=step)


def test_the_backward_pass_of_the_cpu(interpreter: Any) -> None:
    """What CPU kernels leave, and where D and K are not finite."""
    logits, differences, lipschitz = problem(200, 6)
    logits[4, 2] = torch.inf
    differences[1, 2] = torch.inf
    labels = torch.arange(200) % 6
    grad = torch.randn(200)
    epsilon, lam = NUMBERS
    _, prediction, _, runner_up = torch.ops.gloro_fast.margin(logits, differences, lipschitz, epsilon)
    kept = (differences, lipschitz, epsilon, True)
    saved = torch.ops.gloro_fast.margin_loss(logits, differences, lipschitz, epsilon, labels, 1, lam)
    for call, op, arguments in zip(
        backwards(interpreter),
        (torch.ops.gloro_fast.margin_backward, torch.ops.gloro_fast.margin_loss_backward),
        ((grad, logits, prediction, runner_up), (grad, logits, saved[3], saved[4], saved[1], saved[5])),
        strict=True,
    ):
        for actual, expected in zip(call(*arguments, *kept), op(*arguments, *kept), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("grad + row * grad_step, live, 0)\n    if", "grad + row, live, 0)\n    if"),
        ("of_bottom = of_bottom * tl.load(share_of_bottom + row, live, 0)", "of_bottom = of_bottom"),
        ("return epsilon * of_bottom", "return of_bottom"),
        ("differences + j * classes + i", "differences + i * classes + j"),
        ("rise.to(tl.float64) * distance.to(tl.float64)", "(rise * distance).to(tl.float64)"),
        ("total += tl.where(reaches", "total = tl.where(reaches"),
        ("row < rows, -1) == j", "row < rows, -1) >= j"),
        ("row, own) * lipschitz", "row, own)"),
        ("total += tl.sum", "total = tl.sum"),
        ("program - 1, grad", "(program - 1) // 2, grad"),
        ("column == tl.load(runner_up + row, live, -1)", "column >= tl.load(runner_up + row, live, -1)"),
    ],
    ids=[
        "no_stride", "no_share", "no_epsilon", "transposed", "float32_k", "last_block_of_k",
        "rows_of_others", "no_k", "last_block_of_d", "another_class", "scattered_wide",
    ],
)  # fmt: skip
def test_a_bug_planted_in_the_gradients_is_caught(interpreter: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check_gradients(*backwards(interpreter, ("margin_gradients", old, new)), 2100, 3, step=2)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(3, 1), "2 to 4096 classes"),
        (0, torch.zeros(3, 4).double(), "float32, bfloat16 or float16"),
        (1, torch.zeros(3, 4), "differences must be"),
        (2, torch.zeros(2), "lipschitz must be one"),
        (3, torch.zeros(()), "epsilon must be one float64"),
        (4, torch.zeros(2, dtype=torch.int64), "labels must be int64"),
        (6, torch.zeros(2).double(), "lam must be one float64"),
    ],
)
def test_what_does_not_fit_is_refused(interpreter: Any, place: int, value: Any, message: str) -> None:
    arguments: list[Any] = [*problem(3, 4), NUMBERS[0], torch.zeros(3, dtype=torch.int64), 0, NUMBERS[1]]
    arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        interpreter.call("margin_loss", "margin_loss", *arguments)


def check_all(interpreter: Any, planted: tuple[str, str, str] | None) -> None:
    call = partial(interpreter.call, planted=planted)
    tied, differences, lipschitz = problem(40, 6)
    tied = tied.index_copy(1, torch.tensor([0, 3]), tied.amax(1, keepdim=True).expand(-1, 2))
    problems: list[Problem] = [(with_specials(problem(40, 6)[0]), differences, lipschitz), problem(5, 33)]
    if planted is None or planted[0] != "margin_loss":
        for each in [*problems, (tied, differences * 0, lipschitz)]:
            check_margin(partial(call, "margin", "margin"), each)
    if planted is None or planted[0] != "margin":
        for criterion in range(len(CRITERIA)):
            check_loss(partial(call, "margin_loss", "margin_loss"), problem(40, 6), criterion)


def test_no_bug_is_found_where_none_is_planted(interpreter: Any) -> None:
    check_all(interpreter, None)


@pytest.mark.parametrize(
    "planted",
    [
        ("margin_rows", "first = tl.min(tl.where(inside & (values == largest[:, None]), column, _NO_PLACE), 1)",
         "first = tl.max(tl.where(inside & (values == largest[:, None]), column, -1), 1)"),
        ("margin_rows", "has_nan = first_nan < _NO_PLACE", "has_nan = first_nan < 0"),
        ("margin_rows", "tl.where(gap > 0, tl.div_rn(gap, slope), 0.0)", "tl.div_rn(gap, slope)"),
        ("margin_rows", "other = inside & (column != prediction[:, None])", "other = inside"),
        ("margin_rows", "values + epsilon * slope", "values + slope"),
        ("margin_rows", "place[:, None] * classes + column", "column * classes + place[:, None] * 0"),
        ("margin_rows", "beyond = tl.where(certified, limit < raw, limit > raw)", "beyond = limit != limit"),
        ("margin_rows", "radius = tl.where(in_doubt, 0.0, tl.min(quotient, 1))", "radius = tl.min(quotient, 1)"),
        ("margin_loss", "& (is_label == 0), grad_bottom[:, None], 0.0)", "& is_label, grad_bottom[:, None], 0.0)"),
        ("margin_loss", "grad_bottom = weight_of_robust * slope", "grad_bottom = slope"),
        ("margin_loss", "value += weight_of_robust * (lse - mean)", "value += lse - mean"),
        ("margin_loss", "others += tl.where(bottom_leads, 0.0, at_bottom)", "others += at_bottom"),
        ("float32_math", "5.0000001201e-1", "5.01e-1"),
    ],
    ids=[
        "wrong_tie", "nan_overlooked", "tie_divided", "prediction_runs_up", "no_epsilon", "row_of_d", "not_reconciled",
        "certified_in_doubt", "bottom_at_the_label", "no_lambda", "no_lambda_ce", "bottom_twice", "digits_of_exp",
    ],
)  # fmt: skip
def test_a_planted_bug_is_caught(interpreter: Any, planted: tuple[str, str, str]) -> None:
    if planted[0] == "float32_math":  # of the modules that planting loads anew, margin_loss imports it itself
        with pytest.raises(AssertionError):
            check_loss(partial(interpreter.call, "margin_loss", "margin_loss", planted=planted), problem(40, 6), 1)
        return
    with pytest.raises(AssertionError):
        check_all(interpreter, planted)
