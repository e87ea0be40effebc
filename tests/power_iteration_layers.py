"""Layers on which the compiled power iterations are tested: every kind, odd shapes, very different sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.graph.plan import make_plan
from gloro_fast.models.architectures import build
from gloro_fast.ops import Geometry

Layer = tuple[tuple[int, ...], Geometry]
"""The shape of a layer's weight, and its geometry."""


def conv(
    size: tuple[int, ...],
    channels: tuple[int, int],
    kernel: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    groups: int = 1,
) -> Layer:
    """Make a convolution that is the same along every dimension but for the order of the padding."""
    inputs, outputs = channels
    pads = (padding, padding[::-1])[: len(size)]
    geometry = Geometry((inputs, *size), (stride,) * len(size), pads, (dilation,) * len(size), groups)
    return (outputs, inputs // groups, *(kernel,) * len(size)), geometry


def dense(outputs: int, inputs: int) -> Layer:
    return (outputs, inputs), Geometry((inputs,))


def convolutions(sizes: Sequence[tuple[int, ...]], channels: Sequence[tuple[tuple[int, int], int]]) -> list[Layer]:
    """List all kernels, strides, paddings and dilations for these input sizes and (channels, groups)."""
    grid = itertools.product(sizes, channels, [1, 3, 4], [1, 2, 3], [(0, 0), (1, 2), (4, 0)], [1, 2])
    return [
        conv(size, of_both, kernel, stride, padding, dilation, groups)
        for size, (of_both, groups), kernel, stride, padding, dilation in grid
        if all(n + sum(padding) >= dilation * (kernel - 1) + 1 for n in size)
    ]


@cache
def of_network(name: str, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """List the linear layers of a network of the paper with ten classes."""
    # Without values: drawing the orthogonal weights of 8C2F and running it take 6 s of processor time, this 0.2.
    with torch.device("meta"):
        maps = make_plan(build(name, input_shape=input_shape, num_classes=10), input_shape).linear_maps()
    return tuple((tuple(linear.weight.shape), linear.geometry) for linear in maps)


SPECIAL = {
    "1 x 1": conv((1, 1), (4, 6), 1),
    "input smaller than the kernel": conv((1, 1), (4, 6), 5, padding=(2, 2)),
    "phases without pixels": conv((2, 3), (2, 2), 2, stride=5),
    "phases without taps": conv((5, 5), (2, 3), 1, stride=3),
    "outputs that see padding only": conv((3, 3), (2, 2), 1, padding=(3, 3)),
    "stride and dilation share a factor": conv((15, 14), (2, 3), 3, 4, (1, 2), 6),
    "one channel": conv((8, 8), (1, 1), 3, padding=(1, 1)),
    "one dimension": conv((9,), (3, 7), 3, padding=(1, 1)),
    "depthwise": conv((6, 6), (12, 12), 3, padding=(1, 1), groups=12),
    "many channels": conv((6, 6), (150, 70), 3, padding=(1, 1)),
    "wide picture": conv((5, 300), (2, 9), 4, 2, (1, 1)),
    "dense 1 x 1": dense(1, 1),
    "dense 7 x 5": dense(7, 5),
    "dense 40 x 1": dense(40, 1),
    "dense 1 x 40": dense(1, 40),
    "dense, rows that are not aligned": dense(517, 333),
    "dense, aligned": dense(100, 1568),
    "dense, long rows": dense(9, 8200),
}
MIXED = [
    conv((33, 31), (19, 23), 3, padding=(1, 1)),
    dense(100, 1568),
    conv((11,), (4, 4), 4, 3, (2, 0), 2, 4),
    dense(83, 333),
    conv((7, 5), (6, 4), 3, 2, (1, 2), 1, 2),
]


def draw(layers: Sequence[Layer], dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    """Draw the weights, and iterates of unit norm: the same at each call."""
    generator = torch.Generator().manual_seed(0)
    weights, v = [], []
    for shape, geometry in layers:
        fan_in = max(1, math.prod(shape[1:]))
        weight = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(fan_in)
        start = torch.randn(geometry.input_shape, generator=generator, dtype=torch.float64)
        weights.append(weight.to(dtype))
        v.append(F.normalize(start.flatten(), dim=0).reshape(start.shape).float())
    return weights, v
