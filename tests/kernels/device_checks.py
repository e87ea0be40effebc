"""What the CUDA kernels of power iteration must give, whatever runs them: the float64 reference's values."""

from __future__ import annotations

from collections.abc import Sequence

import power_iteration_layers
import torch
from device_program import Network, Outcome
from power_iteration_layers import Layer, conv, dense

from gloro_fast.ops import power_iteration_reference

# What ThreadSanitizer gets through in seconds.
SMALL = [conv((5, 4), (9, 17), 3, 2, (1, 1)), dense(17, 130), conv((4,), (2, 3), 3)]


# Every way in which a wide layer can be odd: channels beyond slices and tiles, groups, strides, dilation, padding,
# phases without taps or pixels, one dimension.
WIDE = {
    "3 x 3": conv((8, 8), (32, 32), 3, padding=(1, 1)),
    "channels beyond the tiles": conv((9, 7), (40, 72), 3, 2, (1, 1)),
    "groups": conv((9, 10), (48, 96), 3, 1, (1, 0), 2, 2),
    "one dimension": conv((17,), (20, 72), 3, 3, (1, 1)),
    "5 x 5": conv((5, 7), (24, 16), 5, padding=(2, 2)),
    "phases without taps": conv((5, 7), (24, 16), 1, 2, (0, 1)),
    "phases without pixels": conv((2, 3), (16, 16), 2, 5),
    "far padding": conv((6, 7), (16, 130), 2, 3, (4, 0)),
    "stride and dilation share a factor": conv((15, 14), (16, 17), 3, 4, (1, 2), 6),
    "many channels": conv((6, 6), (150, 70), 3, padding=(1, 1)),
    "one pixel": conv((1, 1), (64, 64), 1),
}


def draw(layers: Sequence[Layer], dtype: torch.dtype = torch.float32) -> Network:
    return Network(*power_iteration_layers.draw(layers, dtype), [geometry for _, geometry in layers])


def reference(network: Network, iterations: int) -> Outcome:
    """In float64, with the factors 1, 2, ... of the gradients that the programs take."""
    weights = [weight.double().requires_grad_() for weight in network.weights]
    sigma, v, u = power_iteration_reference(weights, [v.double() for v in network.v], network.geometries, iterations)
    factors = torch.arange(1, len(weights) + 1, dtype=torch.float64)
    gradients = torch.autograd.grad((sigma * factors).sum(), weights)
    return Outcome(sigma.detach(), v, u, list(gradients), b"")


def assert_agrees(outcome: Outcome, network: Network, iterations: int) -> None:
    """Sigma to 1e-5 of itself, iterates to 1e-5, gradients to 1e-4 of their norm and the rounding of their type."""
    expected = reference(network, iterations)
    torch.testing.assert_close(outcome.sigma.double(), expected.sigma, rtol=1e-5, atol=1e-30)
    for actual, exact in zip((*outcome.v, *outcome.u), (*expected.v, *expected.u), strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=1e-5)
    for actual, exact in zip(outcome.gradients, expected.gradients, strict=True):
        _assert_near(actual, exact, 1e-4)


SHORTEST = 1024
"""Elements of a vector from which on the planner considers tensor cores."""


def assert_agrees_on_tensor_cores(outcome: Outcome, network: Network, iterations: int) -> None:
    """Sigma to 1e-4 of itself, iterates and gradients to 1e-3 of their norm; twice that where vectors are shorter.

    The factors of all products but the last are cut to 11 bits.
    """
    expected = reference(network, iterations)
    for i, (v, u) in enumerate(zip(expected.v, expected.u, strict=True)):
        slack = 1 if min(v.numel(), u.numel()) >= SHORTEST else 2
        torch.testing.assert_close(outcome.sigma[i].double(), expected.sigma[i], rtol=1e-4 * slack, atol=1e-30)
        _assert_near(outcome.v[i], v, 1e-3 * slack)
        _assert_near(outcome.u[i], u, 1e-3 * slack)
        _assert_near(outcome.gradients[i], expected.gradients[i], 1e-3 * slack)


def _assert_near(actual: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    rounding = 0 if actual.dtype == torch.float32 else torch.finfo(actual.dtype).eps
    error = torch.linalg.vector_norm(actual.double() - exact)
    assert error <= (tolerance + rounding) * torch.linalg.vector_norm(exact)
