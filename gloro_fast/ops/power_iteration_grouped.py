"""Power iteration with layers of one shape as one grouped convolution: fewer launches without the GPU kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.normalize import normalize

_Map = Callable[[Tensor], Tensor]
_unit = torch.vmap(lambda x: normalize(x, None))
_unit_or = torch.vmap(normalize)


def power_iteration_grouped(
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run the power iteration of every layer, all convolutions of one shape together.

    L convolutions of g groups are one of L g groups on their inputs side by side; dense layers are a batch of products.
    Arguments, results and gradients are those of
    :func:`gloro_fast.ops.power_iteration_op.power_iteration_reference`, up to rounding.
    """
    alike: dict[object, list[int]] = {}
    for index, (weight, start, geometry) in enumerate(zip(weights, v, geometries, strict=True)):
        alike.setdefault((weight.shape, weight.dtype, start.dtype, geometry), []).append(index)
    sigmas: list[Tensor] = [torch.zeros(0)] * len(weights)
    v_new, u_new = list(v), list(v)
    for members in alike.values():
        sigma, right, left = _together(
            [weights[index] for index in members], [v[index] for index in members], geometries[members[0]], iterations
        )
        for index, *results in zip(members, sigma.unbind(), right.unbind(), left.unbind(), strict=True):
            sigmas[index], v_new[index], u_new[index] = results
    return torch.stack(sigmas) if sigmas else torch.zeros(0), v_new, u_new


def _together(
    weights: Sequence[Tensor], v: Sequence[Tensor], geometry: Geometry, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate L layers of one shape; give sigma (L,), v (L, *input) and u (L, *output)."""
    right = torch.stack(list(v))
    apply, adjoint = (_products if geometry.is_dense else _convolutions)(weights, geometry, right.dtype)
    with torch.no_grad():
        for _ in range(iterations):
            left = _unit(apply(right))
            right = _unit_or(adjoint(left), right)
        left = _unit(apply(right))
    return (left * apply(right)).flatten(1).sum(1), right, left


def _products(weights: Sequence[Tensor], geometry: Geometry, dtype: torch.dtype) -> tuple[_Map, _Map]:
    operator = torch.stack(list(weights)).to(dtype)
    return lambda x: (operator @ x[..., None])[..., 0], lambda y: (operator.mT @ y[..., None])[..., 0]


def _convolutions(weights: Sequence[Tensor], geometry: Geometry, dtype: torch.dtype) -> tuple[_Map, _Map]:
    count, operator = len(weights), torch.cat(list(weights)).to(dtype)
    channels, *spatial = geometry.input_shape
    joint = dataclasses.replace(geometry, input_shape=(count * channels, *spatial), groups=count * geometry.groups)

    def apply(x: Tensor) -> Tensor:
        y = joint.apply(operator, x.flatten(0, 1))
        return y.reshape(count, -1, *y.shape[1:])

    def adjoint(y: Tensor) -> Tensor:
        return joint.adjoint(operator, y.flatten(0, 1)).reshape(count, channels, *spatial)

    return apply, adjoint
