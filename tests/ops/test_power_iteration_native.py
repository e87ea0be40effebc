"""The compiled power iteration against the float64 reference: shapes, types, gradients, threads, instruction sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import power_iteration_layers
import pytest
import torch
from power_iteration_layers import MIXED, SPECIAL, Layer, conv, convolutions, dense
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops import Geometry, power_iteration, power_iteration_reference
from gloro_fast.ops.power_iteration_op import describe

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")

LEVELS = ["portable", "avx2", "avx512"]  # one that this machine lacks runs as the widest that it has


CONVOLUTIONS = convolutions([(7, 5), (1, 9), (17, 18)], [((1, 5), 1), ((6, 4), 2), ((3, 3), 3)])


def draw(layers: list[Layer], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[Geometry]]:
    weights, v = power_iteration_layers.draw(layers, dtype)
    return [weight.requires_grad_() for weight in weights], v, [geometry for _, geometry in layers]


def with_gradients(
    run: Callable[..., tuple[Tensor, list[Tensor], list[Tensor]]],
    weights: list[Tensor],
    v: list[Tensor],
    geometries: list[Geometry],
    iterations: int,
) -> list[Tensor]:
    """Sigma, v, u and the weights' gradients of a sum with different factors."""
    sigma, v_new, u = run(weights, v, geometries, iterations)
    factors = torch.arange(1, len(weights) + 1, dtype=sigma.dtype)
    gradients = torch.autograd.grad((sigma * factors).sum(), weights)
    return [sigma.detach(), *v_new, *u, *gradients]


def assert_agrees(layers: list[Layer], iterations: int = 2, dtype: torch.dtype = torch.float32) -> None:
    weights, v, geometries = draw(layers, dtype)
    actual = with_gradients(power_iteration, weights, v, geometries, iterations)
    exact = [weight.detach().double().requires_grad_() for weight in weights]
    expected = with_gradients(power_iteration_reference, exact, [start.double() for start in v], geometries, iterations)
    rounding = max(2e-5, torch.finfo(dtype).eps)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        is_gradient = index > 2 * len(layers)
        tolerance = rounding if is_gradient else 2e-5
        assert a.dtype == (dtype if is_gradient else torch.float32)
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GLORO_FAST_SIMD", request.param)
    return str(request.param)


@pytest.mark.parametrize("first", range(0, len(CONVOLUTIONS), 12))
def test_convolutions_agree_with_the_float64_reference(first: int, level: str) -> None:
    assert_agrees(CONVOLUTIONS[first : first + 12])  # twelve layers in one call


@pytest.mark.parametrize("layer", SPECIAL.values(), ids=SPECIAL.keys())
@pytest.mark.parametrize("iterations", [0, 3])
def test_special_shapes_agree_with_the_float64_reference(layer: Layer, iterations: int, level: str) -> None:
    assert_agrees([layer], iterations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_types(dtype: torch.dtype, level: str) -> None:
    assert_agrees(MIXED, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_iterates(dtype: torch.dtype, level: str) -> None:
    weights, v, geometries = draw(MIXED, dtype)
    v64 = [start.double() for start in v]
    actual = with_gradients(power_iteration, weights, v64, geometries, 3)
    expected = with_gradients(power_iteration_reference, weights, v64, geometries, 3)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=1e-6 if a.dtype == torch.float32 else 1e-12, atol=1e-12)


def test_memory_formats(level: str) -> None:
    weights, v, geometries = draw([conv((9, 8), (6, 10), 3, 2, (1, 0)), dense(12, 20)])
    plain = with_gradients(power_iteration, weights, v, geometries, 2)
    other = [
        weights[0].detach().to(memory_format=torch.channels_last).requires_grad_(),
        weights[1].detach().mT.contiguous().mT.requires_grad_(),
    ]
    strided = [torch.stack((start, start), dim=-1)[..., 0] for start in v]
    for a, e in zip(with_gradients(power_iteration, other, strided, geometries, 2), plain, strict=True):
        assert torch.equal(a, e)
    gradient = with_gradients(power_iteration, other, v, geometries, 2)[-2]
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_same_bits_at_every_thread_count(level: str) -> None:
    layers = [conv((32, 32), (24, 32), 3, padding=(1, 1)), dense(200, 1500), *MIXED, *list(SPECIAL.values())[:8]]
    weights, v, geometries = draw(layers)
    results = []
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        results.append(with_gradients(power_iteration, weights, v, geometries, 3))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layer", [conv((5, 6), (3, 4), 3, 2, (1, 1)), dense(6, 9)])
class TestExtremes:
    @pytest.mark.parametrize("scale", [1e-30, 1e-16, 1e16, 1e30])
    def test_no_underflow_or_overflow_in_the_squares(self, layer: Layer, scale: float, level: str) -> None:
        (weight,), v, geometries = draw([layer])
        sigma, v_new, u = power_iteration([weight], v, geometries, 4)
        scaled = power_iteration([weight.detach() * scale], v, geometries, 4)
        torch.testing.assert_close(scaled[0], sigma.detach() * scale, rtol=1e-5, atol=0)
        torch.testing.assert_close(scaled[1][0], v_new[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scaled[2][0], u[0], rtol=1e-5, atol=1e-5)

    def test_zero_weights(self, layer: Layer, level: str) -> None:
        (weight,), v, geometries = draw([layer])
        weight = torch.zeros_like(weight, requires_grad=True)
        sigma, v_new, u = power_iteration([weight], v, geometries, 5)
        sigma.sum().backward()
        assert sigma.item() == 0
        assert torch.equal(v_new[0], v[0])
        assert not u[0].any()
        assert weight.grad is not None
        assert not weight.grad.any()

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_gives_nan_and_leaves_the_iterate(self, layer: Layer, value: float, level: str) -> None:
        (weight,), v, geometries = draw([layer])
        weight = weight.detach().clone()
        weight.view(-1)[1] = value
        for run in (power_iteration, power_iteration_reference):
            sigma, v_new, _ = run([weight], v, geometries, 3)
            assert sigma.isnan().all()
            assert torch.equal(v_new[0], v[0])

    def test_a_nan_iterate_stays_nan(self, layer: Layer, level: str) -> None:
        weights, v, geometries = draw([layer])
        sigma = power_iteration(weights, [torch.full_like(v[0], math.nan)], geometries, 3)[0]
        assert sigma.isnan().all()


@pytest.mark.parametrize("layer", [conv((5, 4), (4, 6), 3, 2, (1, 2), 1, 2), conv((6,), (2, 3), 3), dense(6, 9)])
def test_gradcheck_at_the_kept_iterate(layer: Layer) -> None:
    (weight,), v, geometries = draw([layer], torch.float64)
    _, v_new, _ = power_iteration([weight], [v[0].double()], geometries, 3000)
    assert torch.autograd.gradcheck(lambda w: power_iteration([w], v_new, geometries, 0)[0], weight)


def test_second_derivatives_are_the_references() -> None:
    weights, v, geometries = draw(MIXED[2:], torch.float64)
    v64 = [start.double() for start in v]
    results = []
    for run in (power_iteration, power_iteration_reference):
        sigma = run(weights, v64, geometries, 2)[0]
        gradients = torch.autograd.grad(sigma.square().sum(), weights, create_graph=True)
        results.append(torch.autograd.grad(sum(g.pow(3).sum() for g in gradients), weights))
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_only_u_and_v_are_saved() -> None:
    weights, v, geometries = draw(MIXED)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        _, v_new, u = power_iteration(weights, v, geometries, 2)
    assert sum(saved) == sum(t.numel() for t in (*v_new, *u))
    assert not any(t.requires_grad for t in (*v_new, *u))


def test_inputs_are_left_alone() -> None:
    weights, v, geometries = draw(MIXED)
    kept = [t.detach().clone() for t in (*weights, *v)]
    with_gradients(power_iteration, weights, v, geometries, 2)
    assert all(torch.equal(t, k) for t, k in zip((*weights, *v), kept, strict=True))


def test_three_dimensions_run_as_the_reference() -> None:
    weights, v, geometries = draw([((3, 2, 2, 2, 2), Geometry((2, 3, 4, 3), (1,) * 3, ((0, 1),) * 3, (1,) * 3))])
    actual = power_iteration(weights, v, geometries, 2)
    expected = power_iteration_reference(weights, v, geometries, 2)
    assert torch.equal(actual[0], expected[0])


def test_torch_func_differentiates_it() -> None:
    (weight,), v, geometries = draw([dense(7, 5)])
    gradient = torch.func.grad(lambda w: power_iteration([w], v, geometries, 2)[0].sum())(weight.detach())
    expected = with_gradients(power_iteration, [weight], v, geometries, 2)[-1]
    torch.testing.assert_close(gradient, expected)


def test_a_kernel_larger_than_its_input_is_an_error() -> None:
    weights, v, geometries = draw([conv((2, 2), (1, 1), 3)])
    with pytest.raises(RuntimeError, match="kernel"):
        power_iteration(weights, v, geometries, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    weights, v, geometries = draw([conv((6, 5), (4, 3), 3, 2, (1, 1)), dense(7, 5)], dtype)
    weights[0] = weights[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    numbers = describe(weights, v, geometries)
    assert numbers is not None
    for share in ({}, {"multiprocessors": 3}):
        torch.library.opcheck(torch.ops.gloro_fast.power_iteration.default, (weights, v, numbers, 2), share)
    sigma, v_new, u = torch.ops.gloro_fast.power_iteration([w.detach() for w in weights], v, numbers, 2)
    backward = torch.ops.gloro_fast.power_iteration_backward.default
    torch.library.opcheck(backward, (sigma.requires_grad_(), v_new, u, numbers))


def test_a_share_of_a_gpu_changes_nothing_on_the_cpu() -> None:
    weights, v, geometries = draw(MIXED)
    plain = with_gradients(power_iteration, weights, v, geometries, 2)
    shared = with_gradients(partial(power_iteration, multiprocessors=3), weights, v, geometries, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain, shared, strict=True))


@pytest.mark.parametrize("share", [0, 3])
def test_compiles_into_one_graph(share: int) -> None:
    weights, v, geometries = draw(MIXED)
    torch._dynamo.reset()

    def bound(weights: list[Tensor], v: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        sigma, v_new, _ = power_iteration(weights, v, geometries, 2, share)
        return sigma.prod(), v_new

    compiled = torch.compile(bound, fullgraph=True, backend="aot_eager")
    for run in (bound, compiled):
        value, v_new = run(weights, v)
        gradients = torch.autograd.grad(value, weights)
        results = [value.detach(), *v_new, *gradients]
        if run is bound:
            expected = results
    for a, e in zip(results, expected, strict=True):
        torch.testing.assert_close(a, e)
