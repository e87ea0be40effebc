from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gloro_fast.errors import ArchitectureError
from gloro_fast.native import extension
from gloro_fast.ops.minmax_op import minmax, minmax_reference, unpack_mask

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")

SHAPES = [
    (4, 6),
    (1, 2),
    (3, 34),
    (130, 10),  # more pixels than one chunk of the bias gradient
    (2, 4, 5, 7),
    (3, 6, 1, 1),
    (1, 2, 1, 9),
    (2, 8, 8, 8),
    (1, 2, 33, 33),  # a row longer than one block of the bias gradient
    (2, 4, 11),
    (2, 2, 3, 2, 5),
    (0, 4),
    (0, 4, 3, 3),
    (2, 0, 3, 3),
    (2, 4, 0, 3),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def as_is(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x


def strided(x: Tensor) -> Tensor:
    """The same values with strides that no memory format describes."""
    wide = x.new_empty([*x.shape[:-1], 2 * x.shape[-1]])
    wide[..., ::2] = x
    return wide[..., ::2]


FORMATS = [as_is, channels_last, strided]


def random_values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal values with ties, infinities, both zeros and NaN among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    special = torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, torch.nan, 6e-8, -3e-6], dtype=torch.float64)
    which = torch.randint(len(special), shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.4, special[which], x).to(dtype)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """The same values, zeros of the same sign, and NaN wherever the other has NaN."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    nan = expected.isnan()
    assert torch.equal(actual.signbit() | nan, expected.signbit() | nan)


class TestReference:
    def test_sorts_adjacent_pairs(self) -> None:
        y, swap = minmax_reference(torch.tensor([[3.0, 1.0, 1.0, 3.0]]))
        assert y.tolist() == [[1.0, 3.0, 1.0, 3.0]]
        assert swap.tolist() == [[True, False]]

    def test_pairs_stand_along_dimension_one(self) -> None:
        x = torch.arange(8.0).flip(0).reshape(1, 2, 2, 2)
        assert torch.equal(minmax_reference(x)[0], x.flip(1))

    def test_adds_the_bias_before_it_sorts(self) -> None:
        y, _ = minmax_reference(torch.zeros(1, 2, 1, 1), torch.tensor([2.0, -1.0]))
        assert y.flatten().tolist() == [-1.0, 2.0]

    def test_a_nan_makes_both_outputs_nan(self) -> None:
        y, _ = minmax_reference(torch.tensor([[torch.nan, 1.0, 1.0, torch.nan, torch.nan, torch.nan, 2.0, 1.0]]))
        assert y.isnan().tolist() == [[True] * 6 + [False] * 2]

    def test_ties_keep_their_places_in_value_and_gradient(self) -> None:
        x = torch.tensor([[0.0, -0.0, 1.0, 1.0]], requires_grad=True)
        y, swap = minmax_reference(x)
        assert not swap.any()
        assert_same_bits(y.detach(), x.detach())
        (grad,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        assert grad.tolist() == [[1.0, 2.0, 3.0, 4.0]]

    @pytest.mark.parametrize("shape", [(3, 4), (2, 4, 2, 3)])
    def test_gradient(self, shape: tuple[int, ...]) -> None:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, b: minmax_reference(x, b)[0], (x, bias))


@compiled
class TestCompiled:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("to_format", FORMATS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_forward_has_the_bits_of_the_reference(
        self, shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> None:
        x = to_format(random_values(shape, dtype))
        for bias in (None, random_values(shape[1:2], dtype, seed=1)):
            y, mask = minmax(x, bias)
            y_expected, swap = minmax_reference(x, bias)
            assert_same_bits(y, y_expected)
            assert torch.equal(unpack_mask(mask, x), swap)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("to_format", FORMATS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_backward_agrees_with_the_float64_reference(
        self, shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> None:
        generator = torch.Generator().manual_seed(2)
        x = to_format(torch.randn(shape, generator=generator).to(dtype)).requires_grad_()
        grad_y = to_format(torch.randn(shape, generator=generator).to(dtype))
        bias = torch.zeros(shape[1], dtype=dtype, requires_grad=True)
        grad_x, grad_bias = torch.autograd.grad(minmax(x, bias)[0], (x, bias), grad_y)

        x64, bias64 = x.detach().double().requires_grad_(), bias.detach().double().requires_grad_()
        expected_x, expected_bias = torch.autograd.grad(
            minmax_reference(x64, bias64)[0], (x64, bias64), grad_y.double()
        )
        assert torch.equal(grad_x.double(), expected_x)
        # One rounding to the type itself, and float32 sums of at most 1,089 numbers of size 1 before it.
        rounding = torch.finfo(dtype).eps / 2
        sums = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(grad_bias.double(), expected_bias, rtol=rounding, atol=sums)

    @pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 6, 1, 1), (5, 6)])
    @pytest.mark.parametrize("to_format", [as_is, channels_last])
    def test_memory_format_is_kept(self, shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor]) -> None:
        x = to_format(torch.randn(shape)).requires_grad_()
        y, _ = minmax(x)
        (grad_x,) = torch.autograd.grad(y.sum(), x)
        for like in (y, grad_x):
            strides = [(a, b) for a, b, size in zip(like.stride(), x.stride(), shape, strict=True) if size > 1]
            assert all(a == b for a, b in strides)

    @pytest.mark.parametrize("to_format", [as_is, channels_last])
    def test_mask_holds_one_bit_a_pair(self, to_format: Callable[[Tensor], Tensor]) -> None:
        x = to_format(torch.randn(4, 16, 8, 8))
        mask = minmax(x)[1]
        assert mask.dtype == torch.uint8
        assert mask.numel() == x.numel() // 16

    @pytest.mark.parametrize("to_format", FORMATS)
    def test_gradcheck(self, to_format: Callable[[Tensor], Tensor]) -> None:
        x = to_format(torch.randn(2, 4, 3, 3, dtype=torch.float64)).requires_grad_()
        bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, b: minmax(x, b)[0], (x, bias))
        assert torch.autograd.gradgradcheck(lambda x, b: minmax(x, b)[0], (x, bias))

    def test_gradient_skips_what_does_not_require_it(self) -> None:
        x, bias = torch.randn(3, 4), torch.randn(4, requires_grad=True)
        minmax(x, bias)[0].sum().backward()
        assert bias.grad is not None
        assert bias.grad.tolist() == [3.0] * 4
        x.requires_grad_()
        minmax(x, bias.detach())[0].sum().backward()
        assert x.grad is not None
        assert not minmax(x)[1].requires_grad

    def test_inputs_and_incoming_gradients_are_left_alone(self) -> None:
        for to_format in (as_is, channels_last):
            x, bias = to_format(torch.randn(2, 4, 3, 5)).requires_grad_(), torch.randn(4, requires_grad=True)
            grad_y = to_format(torch.randn(2, 4, 3, 5))
            kept = [t.detach().clone() for t in (x, bias, grad_y)]
            y, _ = minmax(x, bias)
            grad_x, _ = torch.autograd.grad(y, (x, bias), grad_y)
            assert all(torch.equal(t, k) for t, k in zip((x, bias, grad_y), kept, strict=True))
            assert grad_x.data_ptr() != grad_y.data_ptr()

    @pytest.mark.parametrize("expand", [as_is, lambda g: g.mT.contiguous().mT, lambda g: g[:1].expand_as(g)])
    def test_any_strides_of_the_incoming_gradient(self, expand: Callable[[Tensor], Tensor]) -> None:
        grad_y = expand(torch.randn(2, 4, 3, 5))
        for to_format in (as_is, channels_last):
            x = to_format(torch.randn(2, 4, 3, 5)).requires_grad_()
            (actual,) = torch.autograd.grad(minmax(x)[0], x, grad_y)
            (expected,) = torch.autograd.grad(minmax_reference(x)[0], x, grad_y)
            assert torch.equal(actual, expected)

    @pytest.mark.parametrize("to_format", [as_is, channels_last])
    @pytest.mark.parametrize("shape", [(64, 16, 14, 14), (3000, 64)])
    def test_same_bits_at_every_thread_count(
        self, shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor]
    ) -> None:
        x, bias = to_format(torch.randn(shape)).requires_grad_(), torch.randn(shape[1], requires_grad=True)
        grad_y = torch.randn_like(x)
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y, mask = minmax(x, bias)
            results.append((y, mask, *torch.autograd.grad(y, (x, bias), grad_y)))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_bias_gradient_of_a_large_picture_is_exact_to_rounding(self) -> None:
        for to_format in (as_is, channels_last):
            x = to_format(torch.rand(1, 2, 700, 900)).requires_grad_()
            bias = torch.zeros(2, requires_grad=True)
            grad_y = to_format(torch.rand(1, 2, 700, 900))
            (actual,) = torch.autograd.grad(minmax(x, bias)[0], bias, grad_y)
            (grad_x,) = torch.autograd.grad(minmax(x)[0], x, grad_y)
            torch.testing.assert_close(actual.double(), grad_x.double().sum((0, 2, 3)), rtol=3e-7, atol=0)

    @pytest.mark.parametrize(
        ("shape", "to_format"), [*product([(2, 4, 3, 5), (2, 4, 1, 1), (3, 4), (0, 4, 3, 3)], FORMATS)]
    )
    @pytest.mark.parametrize("with_bias", [False, True])
    def test_opcheck(self, shape: tuple[int, ...], to_format: Callable[[Tensor], Tensor], with_bias: bool) -> None:
        x = to_format(torch.randn(shape)).requires_grad_()
        bias = torch.randn(4, requires_grad=True) if with_bias else None
        torch.library.opcheck(torch.ops.gloro_fast.minmax.default, (x, bias))
        y, mask = torch.ops.gloro_fast.minmax(x.detach(), None)
        torch.library.opcheck(torch.ops.gloro_fast.minmax_backward.default, (y.requires_grad_(), mask, with_bias))

    @pytest.mark.parametrize("to_format", [as_is, channels_last])
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_into_one_graph(self, to_format: Callable[[Tensor], Tensor], dynamic: bool) -> None:
        torch.compiler.reset()

        def net(x: Tensor, bias: Tensor) -> Tensor:
            return minmax(2 * x, bias)[0].square().sum()

        traced = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for size in (5, 6):
            x = to_format(torch.randn(2, 4, size, size)).requires_grad_()
            bias = torch.randn(4, requires_grad=True)
            assert torch.equal(traced(x, bias), net(x, bias))
            for actual, expected in zip(
                torch.autograd.grad(traced(x, bias), (x, bias)),
                torch.autograd.grad(net(x, bias), (x, bias)),
                strict=True,
            ):
                assert torch.equal(actual, expected)

    def test_transforms_of_torch_func(self) -> None:
        x = torch.randn(3, 2, 4)
        assert torch.equal(torch.func.vmap(lambda t: minmax(t)[0])(x), minmax(x.reshape(6, 4))[0].reshape(3, 2, 4))
        jacobian = torch.func.jacrev(lambda t: minmax(t)[0])(torch.tensor([[2.0, 1.0]]))
        assert jacobian.squeeze().tolist() == [[0.0, 1.0], [1.0, 0.0]]

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_values_in_any_shape(self, data: st.DataObject) -> None:
        shape = (
            data.draw(st.integers(0, 3), "batch"),
            2 * data.draw(st.integers(1, 9), "pairs"),
            *data.draw(st.lists(st.integers(1, 9), max_size=3), "spatial"),
        )
        values = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=8), "values")
        which = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), "seed"))
        x = torch.tensor([*values, 0.0, -0.0])[torch.randint(len(values) + 2, shape, generator=which)]
        x = data.draw(st.sampled_from(FORMATS), "format")(x)
        y, mask = minmax(x)
        expected, swap = minmax_reference(x)
        assert_same_bits(y, expected)
        assert torch.equal(unpack_mask(mask, x), swap)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((torch.zeros(2, 3), None), "channels must come in pairs, got 3"),
            ((torch.zeros(3), None), "got 1 dimension"),
            ((torch.zeros(2, 4), torch.zeros(2)), "one value a channel"),
            ((torch.zeros(2, 4), torch.zeros(4).double()), "one value a channel"),
            ((torch.zeros(2, 4, dtype=torch.int32), None), "expected float32"),
        ],
    )
    def test_the_bare_op_refuses_what_does_not_fit(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.gloro_fast.minmax(*arguments)

    def test_the_bare_backward_refuses_a_mask_of_another_shape(self) -> None:
        _, mask = torch.ops.gloro_fast.minmax(torch.zeros(2, 4, 5, 5))
        with pytest.raises(RuntimeError, match="mask is not that of a tensor of this shape"):
            torch.ops.gloro_fast.minmax_backward(torch.zeros(4, 4, 5, 5), mask, False)


@pytest.mark.parametrize("function", [minmax, minmax_reference])
class TestBadInput:
    def test_odd_channels(self, function: Callable[..., Any]) -> None:
        with pytest.raises(ArchitectureError, match=r"\(2, 3, 4, 4\) has 3 channels; pairs need an even number"):
            function(torch.zeros(2, 3, 4, 4))

    def test_odd_channels_are_a_value_error(self, function: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="3 channels"):
            function(torch.zeros(2, 3))

    def test_no_channel_dimension(self, function: Callable[..., Any]) -> None:
        with pytest.raises(ArchitectureError, match="batch and a channel dimension"):
            function(torch.zeros(4))

    def test_bias_of_another_size(self, function: Callable[..., Any]) -> None:
        with pytest.raises(ArchitectureError, match=r"bias of shape \(2,\) does not fit x of shape \(2, 4\)"):
            function(torch.zeros(2, 4), torch.zeros(2))

    def test_integers(self, function: Callable[..., Any]) -> None:
        with pytest.raises(ArchitectureError, match=r"torch.uint8; convert"):
            function(torch.zeros(2, 4, dtype=torch.uint8))


def test_a_bias_of_another_type_is_taken_in_the_type_of_x() -> None:
    x, bias = torch.randn(3, 4).bfloat16(), torch.randn(4, requires_grad=True)
    y, _ = minmax(x, bias)
    assert torch.equal(y, minmax_reference(x, bias)[0])
    y.sum().backward()
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32
