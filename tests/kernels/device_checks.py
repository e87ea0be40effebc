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
        rounding = 0 if actual.dtype == torch.float32 else torch.finfo(actual.dtype).eps
        error = torch.linalg.vector_norm(actual.double() - exact)
        assert error <= (1e-4 + rounding) * torch.linalg.vector_norm(exact)
