"""The jobs whose time the bound of a whole net is compared by, and the operations that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks import eager
from benchmarks.interleaving import Job
from gloro_fast import ops
from gloro_fast.ops import Geometry
from gloro_fast.rules.registry import LinearMap

ITERATIONS = 5
MATRIX = 1024
Weights = Sequence[Tensor] | Callable[[], Sequence[Tensor]]


def ours(weights: Weights, geometries: Sequence[Geometry], parameters: Sequence[Tensor]) -> Job:
    """Return the estimates of all layers in one call, and the gradient of their product."""
    iterates = [v[0] for v in eager.start(geometries, parameters[0].device)]

    def job() -> None:
        sigma, v_new, _ = ops.power_iteration(_now(weights), iterates, geometries, ITERATIONS)
        torch._foreach_copy_(iterates, v_new)
        torch.autograd.grad(sigma.prod(), parameters)

    return job


def eager_loop(
    weights: Weights, geometries: Sequence[Geometry], parameters: Sequence[Tensor], compile: bool = False
) -> Job:
    """Return the same by a loop over the layers."""
    iterates = eager.start(geometries, parameters[0].device)

    def product() -> Tensor:
        return eager.spectral_norms(_now(weights), iterates, geometries, ITERATIONS).prod()

    evaluate = torch.compile(product, fullgraph=True, dynamic=False) if compile else product
    return lambda: torch.autograd.grad(evaluate(), parameters)


def call(maps: Sequence[LinearMap]) -> Job:
    """Return the call alone, with its autograd, for as many layers of one feature: what no kernel can save."""
    ones = [torch.ones(1, 1, device=maps[0].weight.device, requires_grad=True) for _ in maps]
    return ours(ones, [Geometry((1,))] * len(maps), ones)


def sgemm(device: torch.device, side: int = MATRIX) -> Job:
    """Multiply two square matrices, by the faster of PyTorch's two libraries on a CPU."""
    a, b = torch.randn(2, side, side, device=device)
    return lambda: ops.dense(a, b)


def flops(maps: Sequence[LinearMap]) -> float:
    """Count the floating-point operations that T iterations, the last application and the gradient need.

    A layer of ones applied to ones adds up one for each multiplication with a pixel that exists; padding is not
    counted. Each iteration applies the layer and its transpose; the last application gives sigma and u, and the
    gradient is one more pass.
    """
    products = sum(
        float(
            linear.geometry.apply(
                torch.ones_like(linear.weight), torch.ones(linear.geometry.input_shape, device=linear.weight.device)
            )
            .double()
            .sum()
        )
        for linear in maps
    )
    return 2.0 * products * (2 * ITERATIONS + 2)


def _now(weights: Weights) -> Sequence[Tensor]:
    return weights() if callable(weights) else weights
