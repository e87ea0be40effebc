"""One spatial axis of a convolution, dilation taken out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from gloro_fast.ops.geometry import Geometry


@dataclass(frozen=True)
class Axis:
    """Output y reads input ``stride * y + tap + offset`` for every tap in [0, taps), where that is in [0, inputs).

    Attributes:
        inputs, outputs: sizes.
        taps: of the kernel.
        stride: step of the outputs.
        offset: where the first tap of output 0 reads, negative in the padding.
    """

    inputs: int
    outputs: int
    taps: int
    stride: int
    offset: int

    @property
    def reach(self) -> int:
        """Over how many outputs two that share an input can be apart."""
        return min((self.taps - 1) // self.stride, self.outputs - 1)

    def transposed(self) -> Axis:
        """Return the transpose, for stride 1: it reads with the taps in reverse order."""
        assert self.stride == 1
        return Axis(self.outputs, self.inputs, self.taps, 1, 1 - self.taps - self.offset)


def padding_copies(geometry: Geometry) -> int:
    """Return how often an entry of the input is found in the circularly padded input, at most."""
    sizes = geometry.input_shape[1:]
    return math.prod(-(-(size + sum(pads)) // size) for size, pads in zip(sizes, geometry.padding, strict=True))


def without_idle_taps(weight: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """Leave out taps at the ends of the kernel that meet nothing but zero padding, with the padding that they met.

    It is the same map. Of 3 x 3 taps on a single pixel, one is left.

    Args:
        weight: (out, in / groups, *taps).
        geometry: of a convolution; one with dilation or circular padding is given back as it is.
    """
    if geometry.padding_mode != "zeros" or any(gap > 1 for gap in geometry.dilation):
        return weight, geometry
    outputs = geometry.output_sizes(weight.shape[2:])
    padding = []
    for dim, (before, after) in enumerate(geometry.padding):
        taps, size = weight.shape[2 + dim], geometry.input_shape[1 + dim]
        # Tap u of output y reads input s y + u - before.
        first = max(0, before - geometry.stride[dim] * (outputs[dim] - 1))
        last = min(taps - 1, size - 1 + before)
        if first > last:
            return weight, geometry
        weight = weight.narrow(2 + dim, first, last - first + 1)
        padding.append((before - first, after - (taps - 1 - last)))
    return weight, dataclasses.replace(geometry, padding=tuple(padding))


def axes(geometry: Geometry, taps: int, dim: int) -> list[Axis]:
    """Split spatial dimension ``dim`` of a zero-padded convolution into independent problems without dilation.

    Output y reads the inputs s y + d u - p. With g = gcd(s, d), s = g s', d = g d', the outputs y = d' y' + r of one
    r in [0, d') read g (d' (s' y' + u) + s' r) - p: inputs of one residue modulo g d', which those of no other r
    read, since s' and d' have no common divisor. So the layer is a direct sum of the problems r, each with the same
    kernel and stride s', and its norm is the largest of theirs. Several axes split independently.

    Args:
        geometry: of the convolution.
        taps: of its kernel along the dimension.
        dim: from 0.

    Returns:
        The distinct problems that have inputs and outputs.
    """
    size, before = geometry.input_shape[1 + dim], geometry.padding[dim][0]
    common = math.gcd(geometry.stride[dim], geometry.dilation[dim])
    stride, dilation = geometry.stride[dim] // common, geometry.dilation[dim] // common
    outputs = geometry.output_size(taps, dim)
    step = common * dilation
    found = []
    for residue in range(min(dilation, outputs)):
        # The input of tap 0 and output 0 is step * 0 + start; inputs of the residue begin at start modulo step.
        start = common * stride * residue - before
        first, offset = start % step, start // step
        inputs = -(-(size - first) // step)
        if inputs > 0:
            found.append(Axis(inputs, -(-(outputs - residue) // dilation), taps, stride, offset))
    return list(dict.fromkeys(found))
