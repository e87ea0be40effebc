"""Power iteration of several layers in one call: every kind of layer and type, extremes, and the gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.normalize import normalize
from gloro_fast.ops.power_iteration_op import power_iteration, power_iteration_reference

_LAYERS = (
    ((5, 2, 3, 4), Geometry((2, 9, 8), (1, 2), ((1, 0), (2, 1)), (2, 1))),
    ((6, 2, 3), Geometry((4, 11), (3,), ((0, 2),), (1,), 2)),
    ((33, 19, 3, 3), Geometry((19, 17, 15), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    ((83, 333), Geometry((333,))),
    ((100, 1568), Geometry((1568,))),
    ((256, 128, 3, 3), Geometry((128, 16, 16), (1, 1), ((1, 1), (1, 1)), (1, 1))),
)
_FEWEST_CHANNELS = 16
"""Of a group: convolutions with as many may run on a GPU's tensor cores, which cut factors to 11 bits."""
_ITERATIONS = 5
_SCALES = (1.0, 1e-30, 1e30, 0.0)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@check("power_iteration")
def check_power_iteration(device: torch.device) -> Iterator[str | None]:
    """Yield for each type and scale whether the estimates, and then whether iterates and gradients, are right."""
    generator = torch.Generator().manual_seed(0)
    geometries = [geometry for _, geometry in _LAYERS]
    for dtype in _DTYPES:
        for scale in _SCALES if dtype == torch.float32 else (1.0,):
            weights, v = _draw(generator, dtype, scale)
            found = _run(power_iteration, [w.to(device) for w in weights], [t.to(device) for t in v], geometries)
            expected = _run(
                power_iteration_reference, [w.double() for w in weights], [t.double() for t in v], geometries
            )
            name = f"{str(dtype).removeprefix('torch.')}, weights times {scale:g}"
            for index, (actual, exact) in enumerate(zip(found[0], expected[0], strict=True)):
                allowed = 1e-4 if _may_be_cut(index, device) else 1e-5
                yield difference(f"estimate {index}, {name}", actual, exact, relative=allowed)
            rounding = torch.finfo(dtype).eps
            for index, (actual, exact) in enumerate(zip(found[1], expected[1], strict=True)):
                cut = _may_be_cut(index % len(_LAYERS), device)
                allowed = 2e-3 * float(exact.abs().max()) if cut else 1e-5
                yield difference(f"iterate {index}, {name}", actual, exact, absolute=allowed)
            for index, (actual, exact) in enumerate(zip(found[2], expected[2], strict=True)):
                allowed = (2e-3 if _may_be_cut(index, device) else 1e-4) * float(exact.abs().max())
                yield difference(f"gradient {index}, {name}", actual, exact, rounding, allowed)


def _may_be_cut(index: int, device: torch.device) -> bool:
    """Check whether a layer may run on tensor cores."""
    shape, geometry = _LAYERS[index]
    return device.type == "cuda" and len(shape) > 2 and min(shape[0] // geometry.groups, shape[1]) >= _FEWEST_CHANNELS


def _draw(generator: torch.Generator, dtype: torch.dtype, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    weights, v = [], []
    for shape, geometry in _LAYERS:
        weight = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        weights.append((weight * scale).to(dtype))
        v.append(normalize(torch.randn(geometry.input_shape, generator=generator), otherwise=None))
    return weights, v


def _run(
    operation: object, weights: list[Tensor], v: list[Tensor], geometries: list[Geometry]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Estimates, iterates and gradients."""
    assert callable(operation)
    leaves = [weight.requires_grad_() for weight in weights]
    sigma, v_new, u = operation(leaves, v, geometries, _ITERATIONS)
    gradients = torch.autograd.grad(sigma.sum(), leaves)
    return list(sigma.detach()), [*v_new, *u], list(gradients)
