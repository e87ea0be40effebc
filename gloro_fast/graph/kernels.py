"""Arithmetic of linear maps: a number a channel, or a convolution or dense layer with such numbers taken in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import LinearMap

Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kernel:
    """A linear map of images of one shape.

    Attributes:
        shape: of the images, without the batch.
        scale: (C,) or (1,), a number for each channel, or one for all; None for the identity.
        linear: the layer that takes the scaled images; None if there is none.
    """

    shape: tuple[int, ...]
    scale: Tensor | None = None
    linear: LinearMap | None = None

    def scaled(self, scale: Tensor) -> Kernel | None:
        """Multiply what comes out by ``scale``, of channels; None where a dense layer has them elsewhere."""
        scale = scale.flatten()
        if self.linear is None:
            return dataclasses.replace(self, scale=scale if self.scale is None else _product(self.scale, scale))
        weight, geometry = self.linear.weight, self.linear.geometry
        if geometry.is_dense and len(self.shape) > 1 and len(scale) > 1:
            return None
        factor = scale.to(weight).reshape(-1, *[1] * (weight.ndim - 1))
        return dataclasses.replace(self, linear=LinearMap(weight * factor, geometry))

    def through(self, linear: LinearMap) -> Kernel | None:
        """Apply a linear layer; None where it has its channels elsewhere than ``scale``."""
        assert self.linear is None
        scale, weight, geometry = self.scale, linear.weight, linear.geometry
        if scale is None:
            return Kernel(self.shape, None, linear)
        if geometry.is_dense and len(self.shape) > 1 and len(scale) > 1:
            return None
        factor = scale.to(weight)
        if len(scale) > 1:
            # Row o of the weight reads the channels of its group.
            factor = factor.reshape(geometry.groups, 1, -1).expand(-1, len(weight) // geometry.groups, -1)
            factor = factor.reshape(len(weight), -1, *[1] * (weight.ndim - 2))
        return Kernel(self.shape, None, LinearMap(weight * factor, geometry))

    def plus(self, other: Kernel) -> Kernel | None:
        """Add another map of the same images; None where there is no one layer that computes the sum."""
        if self.linear is None and other.linear is None:
            # One number a channel has the same meaning in any kernel.
            one = torch.ones(1, dtype=torch.float64)
            mine, its = (one if kernel.scale is None else kernel.scale for kernel in (self, other))
            device = mine.device if len(mine) > 1 else its.device
            return Kernel(self.shape, mine.to(device) + its.to(device))
        if self.linear is None:
            return other.plus(self)
        if other.linear is None:
            other_linear = _identity_like(self.linear, self.shape)
            widened = None if other_linear is None else Kernel(self.shape, other.scale).through(other_linear)
            return None if widened is None else self.plus(widened)
        total = _add(self.linear, other.linear)
        return None if total is None else Kernel(self.shape, None, total)


def _product(a: Tensor, b: Tensor) -> Tensor:
    # A number alone may be on another device than the numbers of channels.
    device = a.device if len(a) > 1 else b.device
    return a.to(device) * b.to(device)


def _identity_like(linear: LinearMap, shape: tuple[int, ...]) -> LinearMap | None:
    """Return the identity as a layer like ``linear``; None if its outputs differ in shape from its inputs."""
    weight, geometry = linear.weight, linear.geometry
    inputs = geometry.input_shape[0]
    if len(weight) != inputs or (geometry.is_dense and geometry.input_shape != shape[-1:]):
        return None
    eye = torch.eye(inputs, dtype=weight.dtype, device=weight.device)
    if geometry.is_dense:
        return LinearMap(eye, geometry)
    if any(step != 1 for step in geometry.stride):
        return None
    # Channel o is number o modulo the size of a group within its group.
    width = inputs // geometry.groups
    eye = eye.reshape(inputs, geometry.groups, width).sum(1)
    axes = len(geometry.stride)
    plain = Geometry(geometry.input_shape, geometry.stride, ((0, 0),) * axes, geometry.dilation, geometry.groups)
    return LinearMap(eye.reshape(inputs, width, *[1] * axes), plain)


def _add(a: LinearMap, b: LinearMap) -> LinearMap | None:
    """Add two layers of the same input, their taps laid on each other."""
    mine, its = a.geometry, b.geometry
    if mine.is_dense or its.is_dense:
        return LinearMap(a.weight + b.weight, mine) if mine == its else None
    alike = (mine.input_shape, mine.stride, mine.groups) == (its.input_shape, its.stride, its.groups)
    outputs = mine.output_sizes(a.weight.shape[2:])
    if not alike or len(a.weight) != len(b.weight) or outputs != its.output_sizes(b.weight.shape[2:]):
        return None
    pads_a: list[int] = []
    pads_b: list[int] = []
    padding, dilation = [], []
    for axis, step in enumerate(mine.stride):
        taps_a, taps_b = a.weight.shape[2 + axis], b.weight.shape[2 + axis]
        gap = its.dilation[axis] if taps_a == 1 else mine.dilation[axis]
        if taps_b > 1 and its.dilation[axis] != gap:
            return None
        # Taps lie at -before, -before + gap, ... of the first output's corner.
        start_a, start_b = -mine.padding[axis][0], -its.padding[axis][0]
        start, end = min(start_a, start_b), max(start_a + gap * (taps_a - 1), start_b + gap * (taps_b - 1))
        if (start_a - start_b) % gap:
            return None
        after = (outputs[axis] - 1) * step + end + 1 - mine.input_shape[1 + axis]
        if start > 0 or (after < 0 and step > 1 and -after >= step) or (step == 1 and after < 0):
            return None
        padding.append((-start, max(0, after)))
        dilation.append(gap)
        for pads, first, taps in ((pads_a, start_a, taps_a), (pads_b, start_b, taps_b)):
            pads[:0] = [(first - start) // gap, (end - first) // gap - (taps - 1)]
    weight = F.pad(a.weight, pads_a) + F.pad(b.weight, pads_b)
    return LinearMap(weight, Geometry(mine.input_shape, mine.stride, tuple(padding), tuple(dilation), mine.groups))
