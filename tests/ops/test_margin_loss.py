"""The compiled margin and the loss on it against their references: bits where promised, rounding elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from gloro_fast.errors import ConfigError
from gloro_fast.native import extension
from gloro_fast.ops import (
    cross_entropy_reference,
    head_differences,
    margin,
    margin_loss,
    margin_loss_reference,
    margin_reference,
    trades_reference,
)
from gloro_fast.ops.margin_loss_op import CRITERIA

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
EPSILON = 0.3
EPSILON_TENSOR, LAMBDA_TENSOR = (torch.tensor(number, dtype=torch.float64) for number in (EPSILON, 1.5))


def problem(
    rows: int, classes: int, dtype: torch.dtype = torch.float64, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, D and K (at least float32), labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=generator) * scale).to(dtype)
    wide = dtype if dtype.itemsize >= 4 else torch.float32
    weight = torch.randn(classes, 7, generator=generator).to(wide)
    labels = torch.randint(classes, (rows,), generator=generator)
    return logits, head_differences(weight) * scale, torch.tensor(0.4, dtype=wide), labels


def with_specials(logits: Tensor, seed: int = 0) -> Tensor:
    """Ties at the top, NaN, infinities, huge numbers and both zeros in some of the rows."""
    generator = torch.Generator().manual_seed(seed)
    big = torch.finfo(logits.dtype).max
    special = torch.tensor([0.0, -0.0, 9.0, 9.0, 9.0, big, -big, torch.inf, -torch.inf, torch.nan]).to(logits.dtype)
    which = torch.randint(len(special), logits.shape, generator=generator)
    rate = torch.rand(len(logits), 1, generator=generator) * 0.6
    return torch.where(torch.rand(logits.shape, generator=generator) < rate, special[which], logits)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def gradients(
    function: Callable[..., tuple[Tensor, ...]], arguments: tuple[Tensor, Tensor, Tensor], *rest: object
) -> tuple[Tensor, ...]:
    """The first result weighted at random, differentiated with respect to logits, D and K."""
    leaves = [t.detach().clone().requires_grad_() for t in arguments]
    value = function(*leaves, *rest)[0]
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value.dtype)
    return torch.autograd.grad(value, leaves, weights)


def test_the_reference_is_the_criterion_over_all_logits() -> None:
    logits, differences, lipschitz, labels = problem(9, 5)
    bottom, prediction, radius = margin_reference(logits, differences, lipschitz, EPSILON)
    f_bar = torch.cat([logits, bottom[:, None]], 1)
    expected = {
        "ce": cross_entropy_reference(f_bar, labels),
        "trades-kl": trades_reference(f_bar, labels, 1.5, "kl"),
        "trades-ce": trades_reference(f_bar, labels, 1.5, "ce"),
    }
    for criterion in CRITERIA:
        result = margin_loss_reference(logits, differences, lipschitz, EPSILON, labels, criterion, 1.5)
        assert torch.equal(result[0], expected[criterion])
        assert torch.equal(result[1], prediction)
        assert torch.equal(result[2], radius > EPSILON)


def test_an_unknown_criterion() -> None:
    logits, differences, lipschitz, labels = problem(2, 3)
    for function in (margin_loss, margin_loss_reference):
        with pytest.raises(ConfigError, match="'trades-kl'"):
            function(logits, differences, lipschitz, EPSILON, labels, "mse")


@compiled
class TestMargin:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("classes", [2, 3, 8, 10, 17, 1000])
    def test_bits_of_the_reference(self, classes: int, dtype: torch.dtype) -> None:
        logits, differences, lipschitz, _ = problem(60, classes, dtype)
        for f in (logits, with_specials(logits), logits.t().contiguous().t()):
            for epsilon in (0.0, EPSILON, float(margin_reference(f, differences, lipschitz, 0.0)[2][0])):
                for actual, expected in zip(
                    margin(f, differences, lipschitz, epsilon),
                    margin_reference(f, differences, lipschitz, epsilon),
                    strict=True,
                ):
                    assert_same_bits(actual, expected)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
    def test_bits_of_the_reference_where_bounds_are_not_finite(self, bad: float) -> None:
        logits, differences, lipschitz, _ = problem(30, 4, torch.float32)
        for d, k in [(differences, lipschitz * bad), (differences.index_fill(1, torch.tensor(2), bad), lipschitz)]:
            for epsilon in (0.3, 1e30):
                for actual, expected in zip(
                    margin(logits, d, k, epsilon), margin_reference(logits, d, k, epsilon), strict=True
                ):
                    assert_same_bits(actual, expected)

    @pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.bfloat16, torch.float64)])
    def test_mixed_types_are_promoted(self, types: tuple[torch.dtype, torch.dtype]) -> None:
        logits, differences, lipschitz, _ = problem(20, 5, types[0])
        differences = differences.to(types[1])
        for actual, expected in zip(
            margin(logits, differences, lipschitz, EPSILON),
            margin_reference(logits, differences, lipschitz, EPSILON),
            strict=True,
        ):
            assert_same_bits(actual, expected)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("rows", [0, 1, 200])
    def test_gradients_of_the_reference(self, rows: int, dtype: torch.dtype) -> None:
        *arguments, _ = problem(rows, 6, dtype)
        actual = gradients(margin, tuple(arguments), EPSILON)
        expected = gradients(margin_reference, tuple(arguments), EPSILON)
        assert_same_bits(actual[0], expected[0])
        rounding = 1e-13 if dtype == torch.float64 else 1e-5
        for a, e in zip(actual[1:], expected[1:], strict=True):
            torch.testing.assert_close(a, e, rtol=rounding, atol=rounding)

    def test_no_gradient_where_bottom_is_not_finite(self) -> None:
        logits = torch.tensor([[1.0, torch.inf, 0.0], [0.0, torch.nan, 1.0], [2.0, -torch.inf, -torch.inf]])
        arguments = (logits, torch.ones(3, 3), torch.tensor(1.0))
        grad_logits, grad_differences, grad_lipschitz = gradients(margin, arguments, EPSILON)
        assert torch.equal(grad_logits, gradients(margin_reference, arguments, EPSILON)[0])
        assert grad_differences.isfinite().all()
        assert grad_lipschitz.isfinite()

    def test_gradcheck(self) -> None:
        arguments = [t.requires_grad_() for t in problem(8, 5)[:3]]
        assert gradcheck(lambda f, d, k: margin(f, d, k, EPSILON)[0], arguments)

    def test_a_gradient_penalty(self) -> None:
        arguments = [t.requires_grad_() for t in problem(6, 4)[:3]]
        assert gradgradcheck(lambda f, d, k: margin(f, d, k, EPSILON)[0], arguments)

    def test_torch_func_takes_the_reference(self) -> None:
        logits, differences, lipschitz, _ = problem(4, 3)
        grad = torch.func.grad(lambda f: margin(f, differences, lipschitz, EPSILON)[0].sum())(logits)
        assert grad.sum() == 4

    def test_opcheck(self) -> None:
        for requires_grad in (False, True):
            arguments = [t.requires_grad_(requires_grad) for t in problem(5, 4)[:3]]
            torch.library.opcheck(torch.ops.gloro_fast.margin, (*arguments, EPSILON_TENSOR))
        logits, *bounds, _ = problem(5, 4)
        bottom, prediction, _, runner_up = torch.ops.gloro_fast.margin(logits, *bounds, EPSILON_TENSOR)
        torch.library.opcheck(
            torch.ops.gloro_fast.margin_backward,
            (bottom, logits, prediction, runner_up, *bounds, EPSILON_TENSOR, True),
        )


@compiled
class TestMarginLoss:
    @pytest.mark.parametrize("criterion", CRITERIA)
    @pytest.mark.parametrize("classes", [2, 3, 8, 10, 17, 1000])
    def test_float64_agrees_with_the_reference(self, classes: int, criterion: str) -> None:
        logits, differences, lipschitz, labels = problem(40, classes, scale=2.0)
        rest = (EPSILON, labels, criterion, 1.5)
        actual = margin_loss(logits, differences, lipschitz, *rest)
        expected = margin_loss_reference(logits, differences, lipschitz, *rest)
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-12, atol=1e-12)
        assert torch.equal(actual[1], expected[1])
        assert torch.equal(actual[2], expected[2])
        assert 0 < actual[2].sum() < 40 or classes > 10
        for a, e in zip(
            gradients(margin_loss, (logits, differences, lipschitz), *rest),
            gradients(margin_loss_reference, (logits, differences, lipschitz), *rest),
            strict=True,
        ):
            torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("criterion", CRITERIA)
    @pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
    def test_float32_is_close_to_the_float64_reference(self, scale: float, criterion: str, dtype: torch.dtype) -> None:
        logits, differences, lipschitz, labels = problem(200, 11, dtype, scale)
        rest = (EPSILON, labels, criterion, 1.5)
        loss, prediction, certified = margin_loss(logits, differences, lipschitz, *rest)
        exact = (logits.double(), differences.double(), lipschitz.double())
        expected = margin_loss_reference(*exact, *rest)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected[0], rtol=1e-5, atol=2e-6 * scale)
        in_float32 = margin_loss_reference(logits, differences, lipschitz, *rest)
        assert torch.equal(prediction, in_float32[1])
        assert torch.equal(certified, in_float32[2])
        actual = gradients(margin_loss, (logits, differences, lipschitz), *rest)
        assert actual[0].dtype == dtype
        # Bottom itself is rounded to float32: an error of its size in an exponent.
        rounding = max(torch.finfo(dtype).eps, 1e-5 * scale)
        for a, e in zip(actual, gradients(margin_loss_reference, exact, *rest), strict=True):
            torch.testing.assert_close(a.double(), e, rtol=rounding, atol=rounding * float(e.abs().max()))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("criterion", CRITERIA)
    def test_rows_in_doubt(self, criterion: str, dtype: torch.dtype) -> None:
        """Never certified but as the reference does, and the loss infinite or NaN where that is."""
        logits, differences, lipschitz, labels = problem(300, 5, dtype)
        logits = with_specials(logits)
        rest = (EPSILON, labels, criterion, 1.5)
        loss, prediction, certified = margin_loss(logits, differences, lipschitz, *rest)
        expected = margin_loss_reference(logits, differences, lipschitz, *rest)
        assert torch.equal(prediction, expected[1])
        assert torch.equal(certified, expected[2])
        assert not certified[~logits.isfinite().all(1)].any()
        # Numbers near the largest overflow in one order of operations and not in the other.
        sound = ~((logits.abs() >= torch.finfo(dtype).max / 4) & logits.isfinite()).any(1)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(loss[sound], expected[0][sound], rtol=tolerance, atol=tolerance, equal_nan=True)
        clean = logits.isfinite().all(1) & sound
        assert 0 < clean.sum() < len(clean)
        grad = gradients(margin_loss, (logits, differences, lipschitz), *rest)[0]
        # In half types the reference rounds each part of the gradient; the kernel only their sum.
        wide = logits.to(loss.dtype)
        wanted = gradients(margin_loss_reference, (wide, differences, lipschitz), *rest)[0]
        rounding = max(tolerance, torch.finfo(dtype).eps)
        torch.testing.assert_close(grad[clean].to(wide.dtype), wanted[clean], rtol=rounding, atol=tolerance)

    @pytest.mark.parametrize("criterion", CRITERIA)
    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_huge_logits_stay_finite(self, size: float, criterion: str) -> None:
        logits = torch.tensor([[size, -size, 0.0], [size, size, size]], requires_grad=True)
        loss, *_ = margin_loss(
            logits, torch.ones(3, 3), torch.tensor(1.0), EPSILON, torch.tensor([0, 1]), criterion, 2.0
        )
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    def test_no_digits_are_lost_where_the_label_wins_among_large_logits(self) -> None:
        logits = torch.tensor([[10000.0, 9990.0]])
        loss, *_ = margin_loss(logits, torch.zeros(2, 2), torch.tensor(1.0), EPSILON, torch.tensor([0]), "trades-kl")
        assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-3)

    @settings(max_examples=100, deadline=None)
    @given(
        st.integers(0, 12),
        st.integers(2, 20),
        st.sampled_from(DTYPES),
        st.sampled_from(CRITERIA),
        st.booleans(),
        st.integers(0, 10**6),
    )
    def test_any_shape(
        self, rows: int, classes: int, dtype: torch.dtype, criterion: str, specials: bool, seed: int
    ) -> None:
        logits, differences, lipschitz, labels = problem(rows, classes, dtype, seed=seed)
        logits = with_specials(logits, seed) if specials else logits
        epsilon = EPSILON
        if rows:  # The hardest epsilon: exactly one row's radius, where rounding decides.
            epsilon = float(margin_reference(logits, differences, lipschitz, 0.0)[2][0])
        epsilon = epsilon if math.isfinite(epsilon) else EPSILON
        rest = (epsilon, labels, criterion, 0.7)
        actual = margin_loss(logits, differences, lipschitz, *rest)
        expected = margin_loss_reference(logits, differences, lipschitz, *rest)
        assert torch.equal(actual[1], expected[1])
        assert torch.equal(actual[2], expected[2])
        if not specials:
            torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("criterion", CRITERIA)
    def test_gradcheck(self, criterion: str) -> None:
        *arguments, labels = problem(8, 5)
        arguments = [t.requires_grad_() for t in arguments]
        assert gradcheck(lambda f, d, k: margin_loss(f, d, k, EPSILON, labels, criterion, 1.5)[0], arguments)

    @pytest.mark.parametrize("criterion", CRITERIA)
    def test_a_gradient_penalty(self, criterion: str) -> None:
        *arguments, labels = problem(6, 4)
        arguments = [t.requires_grad_() for t in arguments]
        assert gradgradcheck(lambda f, d, k: margin_loss(f, d, k, EPSILON, labels, criterion, 1.5)[0], arguments)

    def test_bounds_without_gradient(self) -> None:
        logits, differences, lipschitz, labels = problem(6, 4)
        logits.requires_grad_()
        margin_loss(logits, differences, lipschitz, EPSILON, labels, "ce")[0].sum().backward()
        assert logits.grad is not None

    @pytest.mark.parametrize("label", [-1, 5])
    def test_a_label_out_of_range_reads_no_foreign_memory(self, label: int) -> None:
        logits, differences, lipschitz, _ = problem(1, 5)
        with pytest.raises(RuntimeError, match=r"labels must lie in \[0, 5\)"):
            margin_loss(logits, differences, lipschitz, EPSILON, torch.tensor([label]), "ce")

    @pytest.mark.parametrize("criterion", CRITERIA)
    @pytest.mark.parametrize("classes", [10, 300])
    def test_same_bits_at_every_number_of_threads(self, classes: int, criterion: str) -> None:
        logits, differences, lipschitz, labels = problem(1500, classes, torch.float32)
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            rest = (EPSILON, labels, criterion, 1.5)
            results.append(
                [
                    *margin_loss(logits, differences, lipschitz, *rest),
                    *gradients(margin_loss, (logits, differences, lipschitz), *rest),
                    *gradients(margin, (logits, differences, lipschitz), EPSILON),
                ]
            )
        for one, two in zip(*results, strict=True):
            assert torch.equal(one, two)

    def test_opcheck(self) -> None:
        for requires_grad in (False, True):
            *arguments, labels = problem(5, 4)
            arguments = [t.requires_grad_(requires_grad) for t in arguments]
            torch.library.opcheck(
                torch.ops.gloro_fast.margin_loss, (*arguments, EPSILON_TENSOR, labels, 2, LAMBDA_TENSOR)
            )

    @pytest.mark.parametrize("criterion", CRITERIA)
    def test_compiles_whole(self, criterion: str) -> None:
        *arguments, labels = problem(6, 5, torch.float32)

        def step(f: Tensor, d: Tensor, k: Tensor) -> Tensor:
            loss, prediction, certified = margin_loss(f, d, k, EPSILON, labels, criterion, 1.5)
            return loss.mean() + 0.0 * (certified & (prediction == labels)).sum() + margin(f, d, k, EPSILON)[0].sum()

        compiled_step = torch.compile(step, fullgraph=True, backend="aot_eager")
        leaves = [[t.detach().clone().requires_grad_() for t in arguments] for _ in range(2)]
        values = [compiled_step(*leaves[0]), step(*leaves[1])]
        torch.testing.assert_close(values[0], values[1])
        for value in values:
            value.backward()
        for a, e in zip(*leaves, strict=True):
            torch.testing.assert_close(a.grad, e.grad)
