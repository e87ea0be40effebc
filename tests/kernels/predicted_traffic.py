"""Bytes that a planned convolution asks of global memory, counted from its tiles alone: what the simulator is to count.

Of a plan for one layer of float32. What blocks read while they wait for others is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from power_iteration_layers import Layer

THREADS = 256
SLICE = 16  # channels that lie together where tensor cores multiply


class Axis(NamedTuple):
    """Height or width of a convolution."""

    input: int
    output: int
    kernel: int
    stride: int
    dilation: int
    padding: int

    def forward_sums(self, tile: int, tiles: int) -> tuple[float, float]:
        """Add up over all tiles: input positions inside the picture that windows cover, and taps."""
        positions = taps = 0
        for t in range(tiles):
            outputs = min(tile, self.output - t * tile)
            if outputs > 0:
                positions += self.covered(t * tile, outputs)
                taps += self.kernel
        return positions, taps

    def transposed_sums(self, tile: int, tiles: int) -> tuple[float, float]:
        """Add up the same of the transpose, over all phases as well."""
        positions = taps = 0
        for phase in range(self.stride):
            reaches = [phase + self.padding - self.dilation * k for k in range(self.kernel)]
            places = [reach // self.stride for reach in reaches if reach % self.stride == 0]
            for t in range(tiles if places else 0):
                outputs = min(tile, -(-(self.input - phase) // self.stride) - t * tile)
                if outputs > 0:
                    extent = outputs + places[0] - places[-1]
                    positions += _clipped(t * tile + places[-1], extent, self.output)
                    taps += len(places)
        return positions, taps

    def covered(self, first: int, outputs: int) -> int:
        """Count the input positions that so many outputs see, from one on."""
        extent = (outputs - 1) * self.stride + self.dilation * (self.kernel - 1) + 1
        return _clipped(first * self.stride - self.padding, extent, self.input)

    def meetings(self) -> int:
        """Count pairs of an output and a tap that meet an input."""
        return sum(
            0 <= o * self.stride + k * self.dilation - self.padding < self.input
            for k in range(self.kernel)
            for o in range(self.output)
        )


def _clipped(origin: int, extent: int, size: int) -> int:
    return max(0, min(origin + extent, size) - max(origin, 0))


class _Shape:
    """A two-dimensional convolution of float32."""

    def __init__(self, layer: Layer, wide: bool) -> None:
        (outputs, self.inputs, *taps), geometry = layer
        self.groups, self.outputs = geometry.groups, outputs // geometry.groups
        self.axes = [
            Axis(size, out, kernel, stride, dilation, before)
            for size, out, kernel, stride, dilation, (before, _) in zip(
                geometry.input_shape[1:], geometry.output_sizes(taps), taps, geometry.stride, geometry.dilation,
                geometry.padding, strict=True,
            )
        ]  # fmt: skip
        self.input_size = self.groups * self.inputs * math.prod(axis.input for axis in self.axes)
        self.output_size = self.groups * self.outputs * math.prod(axis.output for axis in self.axes)
        self.taps = math.prod(taps)
        # As they lie in memory.
        self.held: Callable[[int], int] = (lambda n: -(-n // SLICE) * SLICE) if wide else (lambda n: n)


def forward_traffic(layer: Layer, planned: dict[str, Any], iterations: int) -> float:
    """Return the bytes that the power iteration moves.

    Args:
        layer: a two-dimensional convolution.
        planned: what ``Plan.layers()`` says of it.
        iterations: T.
    """
    wide = planned["wide"]
    shape = _Shape(layer, wide)
    inputs, outputs = shape.held(shape.inputs), shape.held(shape.outputs)
    total = 0.0
    for name in ("forward", "transposed"):
        tiling, transposed = planned[name], name == "transposed"
        products = iterations + (not transposed)
        sums = [
            (axis.transposed_sums if transposed else axis.forward_sums)(tile, tiles)
            for axis, tile, tiles in zip(shape.axes, tiling["tile"], tiling["tiles"], strict=True)
        ]
        positions, taps = (math.prod(of_axis) for of_axis in zip(*sums, strict=True))
        weights = 4 * shape.groups * inputs * outputs * taps
        read = 4 * shape.groups * (outputs if transposed else inputs) * tiling["channel_tiles"] * positions
        written = (
            shape.input_size * inputs / shape.inputs if transposed else shape.output_size * outputs / shape.outputs
        )
        total += weights * (min(products, 1) if tiling["resident"] else products) + products * (read + 4 * written)
        total += 8 * planned["blocks"] * (1 + (products if planned["blocks"] > 1 else 0))
    if wide:  # packed
        total += 4 * shape.groups * shape.taps * (shape.outputs * shape.inputs + inputs * outputs)
        total += 4 * shape.input_size * (1 + inputs / shape.inputs)
    # At the end both iterates are read, divided by their norms and written.
    return total + 8 * (shape.input_size + shape.output_size)


def gradient_traffic(layer: Layer, planned: dict[str, Any]) -> float:
    """Return the bytes that the gradient moves; arguments as for :func:`forward_traffic`."""
    shape, tiling = _Shape(layer, planned["wide"]), planned["forward"]
    entries, entry_tiles = shape.inputs * shape.taps, tiling["entry_tiles"]
    if planned["wide"]:
        read = shape.inputs * math.prod(axis.meetings() for axis in shape.axes)
    else:
        # Windows are staged for whole tiles, outputs beyond the picture included.
        positions = math.prod(
            sum(axis.covered(t * tile, tile) for t in range(tiles))
            for axis, tile, tiles in zip(shape.axes, tiling["tile"], tiling["tiles"], strict=True)
        )
        lanes = 32 * 8 // tiling["channels"]  # of a warp along entries, four a thread
        size = lanes * 4 * (THREADS // 32 // tiling["split"])
        ends = [((t + 1) * size - 1) // shape.taps for t in range(entry_tiles)]
        read = positions * sum(min(end, shape.inputs - 1) - t * size // shape.taps + 1 for t, end in enumerate(ends))
    pictures = shape.outputs * math.prod(axis.output for axis in shape.axes)
    vectors = 4 * shape.groups * (tiling["channel_tiles"] * read + entry_tiles * pictures)
    written = 4 * shape.groups * shape.outputs * entries
    return vectors + written + 4 * THREADS * tiling["items"]  # every thread reads the factor
