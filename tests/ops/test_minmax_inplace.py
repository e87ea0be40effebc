from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.native import extension
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.ops.minmax_op import minmax, minmax_reference

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


def as_is(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def strided(x: Tensor) -> Tensor:
    wide = x.new_empty([*x.shape[:-1], 2 * x.shape[-1]])
    wide[..., ::2] = x
    return wide[..., ::2]


FORMATS = [as_is, channels_last, strided]
SHAPES = [(5, 6), (40, 100), (2, 4, 5, 7), (3, 6, 1, 1), (1, 2, 33, 33), (2, 4, 11), (0, 4, 3, 3)]


@pytest.mark.parametrize("to_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_writes_what_minmax_gives_over_its_input(
    shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    for bias in (None, torch.randn(shape[1], dtype=dtype)):
        x = to_format(torch.randn(shape).to(dtype))
        expected = minmax(x, bias)[0]
        place = x.data_ptr()
        y = minmax_(x, bias)
        assert y is x
        assert x.data_ptr() == place
        assert torch.equal(x, expected)


@pytest.mark.parametrize("to_format", FORMATS)
@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_minmax(to_format: Callable[[Tensor], Tensor], bias_dtype: torch.dtype) -> None:
    x = to_format(torch.randn(3, 4, 5, 7)).requires_grad_()
    bias = torch.randn(4, dtype=bias_dtype, requires_grad=True)
    grad_y = to_format(torch.randn(3, 4, 5, 7))
    kept = grad_y.clone()
    expected = torch.autograd.grad(minmax(2 * x, bias)[0], (x, bias), grad_y)
    actual = torch.autograd.grad(minmax_(2 * x, bias), (x, bias), grad_y)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert torch.equal(grad_y, kept)


def test_gradcheck_of_first_and_second_order() -> None:
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: minmax_(x * 1, b), (x, bias))
    assert torch.autograd.gradgradcheck(lambda x, b: minmax_(x * 1, b), (x, bias))


def test_only_the_bias_requires_a_gradient() -> None:
    x, bias = torch.randn(3, 4), torch.randn(4, requires_grad=True)
    y = minmax_(x, bias)
    assert y.requires_grad
    y.sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [3.0] * 4


class TestRulesOfInplaceOps:
    """Those of ``torch.relu_``, checked against it where it has something to say."""

    @pytest.mark.parametrize("inplace", [torch.relu_, minmax_])
    def test_a_leaf_that_requires_grad_is_refused_and_left_alone(self, inplace: Callable[[Tensor], Tensor]) -> None:
        leaf = torch.tensor([[2.0, 1.0]], requires_grad=True)
        for x in (leaf, leaf[:]):
            with pytest.raises(RuntimeError, match="leaf"):
                inplace(x)
        assert leaf.tolist() == [[2.0, 1.0]]

    @pytest.mark.parametrize("inplace", [torch.relu_, minmax_])
    def test_a_leaf_may_be_written_over_without_autograd(self, inplace: Callable[[Tensor], Tensor]) -> None:
        leaf = torch.tensor([[2.0, 1.0]], requires_grad=True)
        with torch.no_grad():
            inplace(leaf)
        assert leaf.is_leaf
        assert leaf.requires_grad

    @pytest.mark.parametrize("inplace", [torch.relu_, minmax_])
    @pytest.mark.parametrize("grad", [False, True])
    def test_the_version_moves_once(self, inplace: Callable[[Tensor], Tensor], grad: bool) -> None:
        x = torch.randn(2, 4, requires_grad=grad) * 2
        before = x._version
        inplace(x)
        assert x._version == before + 1

    @pytest.mark.parametrize("inplace", [torch.relu_, minmax_])
    def test_who_needs_the_overwritten_values_finds_out(self, inplace: Callable[[Tensor], Tensor]) -> None:
        x = torch.randn(2, 4, requires_grad=True)
        y = x.exp()  # its backward needs its output
        inplace(y)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    @pytest.mark.parametrize("inplace", [torch.relu_, minmax_])
    def test_views_of_one_another_see_the_change_and_its_gradient(self, inplace: Callable[[Tensor], Tensor]) -> None:
        x = torch.randn(4, 6, requires_grad=True)
        base = x * 1
        inplace(base[1:3])
        (grad,) = torch.autograd.grad(base, x, torch.ones(4, 6))
        assert grad[0].tolist() == grad[3].tolist() == [1.0] * 6
        rows = torch.relu(x[1:3]) if inplace is torch.relu_ else minmax_reference(x[1:3])[0]
        assert torch.equal(base[1:3], rows)

    def test_overlapping_memory_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="single memory location"):
            minmax_(torch.randn(1, 4).expand(3, 4))

    def test_inference_mode(self) -> None:
        with torch.inference_mode():
            assert minmax_(torch.tensor([[2.0, 1.0]])).tolist() == [[1.0, 2.0]]

    def test_arguments_are_checked_before_anything_is_written(self) -> None:
        x = torch.tensor([[2.0, 1.0]])
        with pytest.raises(ArchitectureError, match="bias of shape"):
            minmax_(x, torch.zeros(4))
        assert x.tolist() == [[2.0, 1.0]]


class TestSharedGradients:
    """The branches of a sum get one and the same gradient tensor, so nobody may write into it."""

    @pytest.mark.parametrize("activation", [lambda x: minmax(x)[0], lambda x: minmax_(x * 1)])
    @pytest.mark.parametrize("to_format", [as_is, channels_last])
    def test_residual(self, activation: Callable[[Tensor], Tensor], to_format: Callable[[Tensor], Tensor]) -> None:
        def net(x: Tensor, sort: Callable[[Tensor], Tensor]) -> Tensor:
            for _ in range(3):
                x = x + sort(x.flip(1))
            return x

        x = to_format(torch.randn(2, 4, 6, 6, dtype=torch.float64)).requires_grad_()
        weight = torch.randn(2, 4, 6, 6, dtype=torch.float64)
        (actual,) = torch.autograd.grad((net(x, activation) * weight).sum(), x)
        (expected,) = torch.autograd.grad((net(x, lambda t: minmax_reference(t)[0]) * weight).sum(), x)
        torch.testing.assert_close(actual, expected)

    def test_one_tensor_used_twice(self) -> None:
        x = torch.randn(3, 4, requires_grad=True)
        grad_y = torch.randn(3, 4)
        doubled = 2 * x
        (grad,) = torch.autograd.grad(minmax(doubled)[0] + doubled, x, grad_y)
        (expected,) = torch.autograd.grad(minmax_reference(doubled := 2 * x)[0] + doubled, x, grad_y)
        torch.testing.assert_close(grad, expected)


@compiled
class TestTracing:
    @pytest.mark.parametrize("to_format", [as_is, channels_last])
    def test_compiles_into_one_graph(self, to_format: Callable[[Tensor], Tensor]) -> None:
        torch.compiler.reset()

        def net(x: Tensor, bias: Tensor) -> Tensor:
            h = 2 * x
            y = minmax_(h, bias)
            return (y.square() + h).sum()

        traced = torch.compile(net, fullgraph=True, backend="aot_eager")
        x = to_format(torch.randn(2, 4, 5, 5)).requires_grad_()
        bias = torch.randn(4, requires_grad=True)
        assert torch.equal(traced(x, bias), net(x, bias))
        for actual, expected in zip(
            torch.autograd.grad(traced(x, bias), (x, bias)), torch.autograd.grad(net(x, bias), (x, bias)), strict=True
        ):
            assert torch.equal(actual, expected)

    def test_a_compiled_function_changes_its_argument_too(self) -> None:
        torch.compiler.reset()
        x = torch.tensor([[2.0, 1.0]])
        torch.compile(minmax_, fullgraph=True, backend="aot_eager")(x)
        assert x.tolist() == [[1.0, 2.0]]

    @pytest.mark.parametrize("strict", [False, True])
    def test_export(self, strict: bool) -> None:
        from gloro_fast.nn.minmax import MinMax

        net = nn.Sequential(nn.Linear(3, 4), MinMax(inplace=True), nn.Linear(4, 2), MinMax()).eval()
        x = torch.randn(5, 3)
        exported = torch.export.export(net, (x,), strict=strict)
        assert torch.equal(exported.module()(x), net(x))

    def test_opcheck(self) -> None:
        x, bias = torch.randn(2, 4, 3, 5), torch.randn(4)
        torch.library.opcheck(torch.ops.gloro_fast.minmax_.default, (x, bias))
