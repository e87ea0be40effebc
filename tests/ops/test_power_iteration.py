"""Geometry and power iteration against the unrolled matrix in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from gloro_fast.ops import Geometry, power_iteration


def unrolled(weight, geometry):
    """The layer as a matrix: its values on every unit vector."""
    size = torch.Size(geometry.input_shape).numel()
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *geometry.input_shape)
    return torch.stack([geometry.apply(weight, e).flatten() for e in basis], dim=1)


def unit(shape, dtype=torch.float64):
    return F.normalize(torch.randn(shape, dtype=dtype).flatten(), dim=0).reshape(shape)


CONVOLUTIONS = [
    (size, kernel, stride, padding, dilation, groups)
    for size, kernel, stride, padding, dilation, groups in itertools.product(
        [(5, 6), (1, 4)], [1, 3, (2, 4)], [1, 2, 3], [(0, 0), (1, 1), (1, 2)], [1, 2], [1, 2]
    )
    if all(
        n + sum(padding) >= dilation * (k - 1) + 1
        for n, k in zip(size, kernel if isinstance(kernel, tuple) else (kernel, kernel), strict=True)
    )
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_adjoint_is_the_transpose(size, kernel, stride, padding, dilation, groups):
    taps = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    geometry = Geometry((4, *size), (stride, stride), (padding, padding[::-1]), (dilation, dilation), groups)
    weight = torch.randn(6, 4 // groups, *taps, dtype=torch.float64)
    x = torch.randn(4, *size, dtype=torch.float64)
    image = geometry.apply(weight, x)
    y = torch.randn_like(image)
    back = geometry.adjoint(weight, y)
    assert back.shape == x.shape
    torch.testing.assert_close((image * y).sum(), (x * back).sum(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("padding", "dilation"), [((0, 0), 1), ((1, 1), 1), ((2, 1), 2), ((4, 5), 2)])
def test_circular_padding_and_its_transpose(stride, padding, dilation):
    geometry = Geometry((4, 5, 6), (stride, 1), (padding, padding[::-1]), (dilation, 1), 2, "circular")
    weight = torch.randn(6, 2, 2, 3, dtype=torch.float64)
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    image = geometry.apply(weight, x)
    padded = F.pad(x[None], (*padding[::-1], *padding), mode="circular")
    torch.testing.assert_close(image, F.conv2d(padded, weight, stride=(stride, 1), dilation=(dilation, 1), groups=2)[0])
    y = torch.randn_like(image)
    torch.testing.assert_close((image * y).sum(), (x * geometry.adjoint(weight, y)).sum(), rtol=1e-11, atol=1e-11)


def test_apply_is_the_layer():
    layer = torch.nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=False)
    geometry = Geometry((4, 7, 5), layer.stride, ((1, 1), (2, 2)), layer.dilation, 2)
    x = torch.randn(1, 4, 7, 5)
    torch.testing.assert_close(geometry.apply(layer.weight, x[0]), layer(x)[0])


LAYERS = [
    ((7, 5), Geometry((5,))),
    ((6, 3, 3, 3), Geometry((3, 6, 5), (2, 2), ((1, 1), (0, 1)), (1, 1))),
    ((4, 2, 4, 4), Geometry((4, 7, 7), (2, 2), ((1, 2), (1, 2)), (1, 1), 2)),
    ((4, 4, 3), Geometry((4, 9), (1,), ((2, 2),), (2,))),
    ((6, 3, 3, 3), Geometry((3, 6, 5), (1, 1), ((1, 1), (1, 1)), (1, 1), padding_mode="circular")),
]


def test_all_layers_converge_to_their_spectral_norms():
    weights = [torch.randn(shape, dtype=torch.float64) for shape, _ in LAYERS]
    geometries = [geometry for _, geometry in LAYERS]
    v = [unit(geometry.input_shape) for geometry in geometries]
    sigma, v_new, u = power_iteration(weights, v, geometries, 3000)
    for index, (weight, geometry) in enumerate(zip(weights, geometries, strict=True)):
        exact = torch.linalg.matrix_norm(unrolled(weight, geometry), 2)
        torch.testing.assert_close(sigma[index], exact, rtol=1e-6, atol=0)
        assert sigma[index] <= exact * (1 + 1e-12)
        torch.testing.assert_close(v_new[index].norm(), torch.ones((), dtype=torch.float64))
        torch.testing.assert_close(geometry.apply(weight, v_new[index]), sigma[index] * u[index])


def test_iterations_are_those_of_the_matrix():
    weight, geometry = torch.randn(4, 2, 4, 4, dtype=torch.float64), LAYERS[2][1]
    v = unit(geometry.input_shape)
    _, (v_new,), _ = power_iteration([weight], [v], [geometry], 3)
    matrix = unrolled(weight, geometry)
    expected = v.flatten()
    for _ in range(3):
        expected = F.normalize(matrix.T @ (matrix @ expected), dim=0)
    torch.testing.assert_close(v_new.flatten(), expected, rtol=1e-11, atol=1e-12)


def test_gradient_is_u_v():
    weight, geometry = torch.randn(7, 5, dtype=torch.float64, requires_grad=True), Geometry((5,))
    sigma, (v,), (u,) = power_iteration([weight], [unit(5)], [geometry], 4)
    (gradient,) = torch.autograd.grad(sigma.sum(), weight)
    torch.testing.assert_close(gradient, torch.outer(u, v))


@pytest.mark.parametrize(("shape", "geometry"), LAYERS)
def test_gradcheck_where_the_iterate_has_converged(shape, geometry):
    # Only there is d sigma / d W = u v^T the derivative of the whole computation, v's dependence on W included.
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    _, v, _ = power_iteration([weight.detach()], [unit(geometry.input_shape)], [geometry], 3000)
    assert gradcheck(lambda w: power_iteration([w], v, [geometry], 0)[0], weight)


def test_zero_weights():
    weight = torch.zeros(3, 4, requires_grad=True)
    v = unit(4, torch.float32)
    sigma, (v_new,), _ = power_iteration([weight], [v], [Geometry((4,))], 5)
    sigma.sum().backward()
    assert sigma.item() == 0
    assert torch.equal(v_new, v)
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_underflow_or_overflow_in_the_squares(scale):
    weight = torch.randn(6, 6)
    v = unit(6, torch.float32)
    sigma = power_iteration([weight], [v], [Geometry((6,))], 50)[0]
    scaled = power_iteration([weight * scale], [v], [Geometry((6,))], 50)[0]
    torch.testing.assert_close(scaled, sigma * scale, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_iterated_in_float32(dtype):
    weight = torch.randn(6, 3, 3, 3).to(dtype)
    geometry = Geometry((3, 5, 5), (1, 1), ((1, 1), (1, 1)), (1, 1))
    v = unit(geometry.input_shape, torch.float32)
    sigma, v_new, u = power_iteration([weight], [v], [geometry], 5)
    assert sigma.dtype == v_new[0].dtype == u[0].dtype == torch.float32
    torch.testing.assert_close(sigma, power_iteration([weight.float()], [v], [geometry], 5)[0])


def test_no_layers():
    sigma, v, u = power_iteration([], [], [], 5)
    assert len(sigma) == len(v) == len(u) == 0
