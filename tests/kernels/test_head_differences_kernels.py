"""The Triton kernels of the head's distances, interpreted and as PTX in a simulator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops.head_differences_op import head_differences_reference

pytest.importorskip("triton")
from gloro_fast.kernels import head_differences as kernels
from simulated_gpu import far_out, gpu, needs_simulator

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
SHAPES = [(2, 1), (3, 7), (10, 300), (32, 5), (33, 40), (40, 33), (1, 4), (0, 3), (4, 0)]


def rows_of(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows, two of them equal, reproducible."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(shape[0])) + 3.0
    if shape[0] > 2:
        weight[2] = weight[0]
    return weight.to(dtype)


def check(call: Any, weight: Tensor, planted: tuple[str, str, str] | None = None) -> None:
    """D to 1e-6, symmetric to the bit, and the gradient to some roundings of what is added up."""
    classes = len(weight)
    exact = weight.double().requires_grad_()
    expected = head_differences_reference(exact)
    differences = call("head_differences", "head_differences", weight, planted=planted)
    assert differences.dtype == torch.float32
    torch.testing.assert_close(differences.double(), expected.detach(), rtol=1e-6, atol=0)
    assert torch.equal(differences, differences.t())
    assert not differences.diagonal().any()

    grad = torch.randn(classes, classes, generator=torch.Generator().manual_seed(classes + 1))
    grad[:, 1:2] = 0
    found = call("head_differences", "head_differences_backward", grad, weight, differences, planted=planted)
    (wanted,) = torch.autograd.grad(expected, exact, grad.double())
    assert found.dtype == weight.dtype
    size = (grad.abs() + grad.abs().t()).sum(1, keepdim=True) * (2 * classes + 24) * 2**-24
    rounded = torch.finfo(weight.dtype).eps * wanted.abs()
    assert ((found.double() - wanted).abs() <= size + rounded).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_float64_reference(call: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
    check(call, rows_of(shape, dtype))


@needs_simulator
def test_bfloat16() -> None:
    """Which the interpreter does not know."""
    from simulated_gpu import call

    check(call, rows_of((10, 70), torch.bfloat16))


def test_arguments_of_any_strides(call: Any) -> None:
    weight, grad = rows_of((9, 5)).t(), torch.randn(5, 5).t()
    differences = call("head_differences", "head_differences", weight)
    assert torch.equal(differences, call("head_differences", "head_differences", weight.contiguous()))
    found = call("head_differences", "head_differences_backward", grad, weight, differences)
    straight = (grad.contiguous(), weight.contiguous(), differences)
    assert torch.equal(found, call("head_differences", "head_differences_backward", *straight))


def test_no_number_is_lost_that_is_none(call: Any) -> None:
    """A distance to a row with NaN is NaN, not 0, with which everything would be certified."""
    weight = rows_of((5, 40))
    weight[3, 17] = torch.nan
    differences = call("head_differences", "head_differences", weight)
    assert differences[3, :3].isnan().all()
    assert differences[:3, :3].isfinite().all()


@needs_simulator
def test_distances_beyond_two_to_the_31() -> None:
    """Of 50,000 classes the last tile alone, with the memory that it may touch."""
    rows, count, columns = 50_000, 16, 32
    first = rows - count
    assert first * rows > 2**31
    weight = rows_of((count, columns))
    differences = torch.zeros(count, rows)

    def last_tile(ptx: str) -> str:
        return str(far_out(first // count)(ptx)).replace("%ctaid.y", str(first // count))

    with gpu(edit=last_tile) as simulated:
        simulated.origins = {weight: first * columns * 4, differences: first * rows * 4}
        kernels.pair_distances[(1, 1)](weight, differences, rows, columns, ROWS=count, COLUMNS=32, num_warps=8)
    expected = head_differences_reference(weight.double())
    torch.testing.assert_close(differences[:, first:].double(), expected, rtol=1e-6, atol=0)
    assert not differences[:, :first].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4).double(),), "float32, bfloat16 or float16, got torch.float64"),
        ((torch.zeros(3),), r"must be \(classes, features\)"),
        ((torch.zeros(3, 2), torch.zeros(3, 4), torch.zeros(3, 3)), r"expected \(3, 3\) of float32"),
        ((torch.zeros(3, 3), torch.zeros(3, 4), torch.zeros(3, 3).double()), r"expected \(3, 3\) of float32"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Tensor, ...], message: str) -> None:
    function = kernels.head_differences if len(arguments) == 1 else kernels.head_differences_backward
    with pytest.raises(RuntimeError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if tl.program_id(1) < tl.program_id(0):", "if tl.program_id(1) <= tl.program_id(0):"),
        ("differences + j[None, :].to(tl.int64) * rows + i[:, None]", "differences + i[:, None] * rows + j[None, :]"),
        ("total += apart * apart", "total = apart * apart"),
        ("tl.load(grad + place, both, 0) + tl.load(grad + across, both, 0)", "2.0 * tl.load(grad + place, both, 0)"),
        ("(slope != 0) & (distance != 0)", "slope != 0"),
        ("tl.div_rn(slope, tl.where(reaches, distance, 1.0))", "slope"),
    ],
    ids=["no_diagonal", "one_triangle", "last_step", "one_half", "equal_rows", "undivided"],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_planted_bug_is_caught(call: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check(call, rows_of((33, 40)), ("head_differences", old, new))


@needs_simulator
def test_a_row_too_far_is_caught() -> None:
    from simulated_gpu import call

    planted = ("head_differences", "(j < rows)[:, None] & inside, 0)\n        apart", "inside, 0)\n        apart")
    with pytest.raises(Exception, match="out of bounds"):
        check(call, rows_of((33, 40)), planted)
