"""``F.linear``, matrix products and convolutions whose weight is a tensor of parameters."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.arithmetic import operands
from gloro_fast.graph.call import Call, Operand
from gloro_fast.graph.node import Node, Weighted, constants
from gloro_fast.graph.operations import Function
from gloro_fast.ops.geometry import Geometry

CONVOLUTIONS = (F.conv1d, F.conv2d, torch.conv1d, torch.conv2d)
MATRIX_PRODUCTS = (operator.matmul, torch.matmul, torch.mm, "matmul", "mm")


def linear(call: Call, nodes: list[Node]) -> Node:
    """Read ``F.linear(x, weight, bias)``."""
    weight, bias = call.read("weight", "bias")
    if not isinstance(weight, Operand) or len(weight.shape) != 2:
        raise call.unknown()
    return _node(call, nodes, Function(F.linear), Geometry(call.input.shape[-1:]), weight, bias)


def matrix_product(call: Call, nodes: list[Node]) -> Node:
    """Read ``x @ weight``: a dense layer with the transposed weight."""
    x, weight = operands(call)
    if not (isinstance(x, Operand) and isinstance(weight, Operand)) or not (x.constant or weight.constant):
        raise call.unknown()
    if x.constant or len(weight.shape) != 2 or x.value.ndim < 2:
        raise ArchitectureError(
            f"{call.where} is no product x @ weight with a matrix of parameters; use that, or F.linear(x, weight)"
        )
    # A node of its own, that only the constant of this one rests on.
    nodes.append(Node(call.where, Function(torch.t), (weight.index,), shape=tuple(reversed(weight.shape))))
    transfer = Weighted(call.where, constants(nodes, len(nodes) - 1), Geometry(x.shape[-1:]))
    return Node(call.where, Function(torch.matmul), (x.index, weight.index), transfer, call.shape)


def convolution(call: Call, nodes: list[Node]) -> Node:
    """Read ``F.conv2d(x, weight, bias, stride, padding, dilation, groups)`` with numbers for the padding."""
    weight, bias, stride, padding, dilation, groups = call.read(
        "weight", "bias", "stride", "padding", "dilation", "groups", stride=1, padding=0, dilation=1, groups=1
    )
    axes = len(call.input.shape) - 1
    if not isinstance(weight, Operand) or isinstance(padding, str) or len(weight.shape) != axes + 2:
        raise call.unknown()
    stride, padding, dilation = (_per_axis(value, axes) for value in (stride, padding, dilation))
    geometry = Geometry(call.input.shape, stride, tuple((n, n) for n in padding), dilation, groups)
    keywords = (("stride", stride), ("padding", padding), ("dilation", dilation), ("groups", groups))
    function = F.conv1d if axes == 1 else F.conv2d
    return _node(call, nodes, Function(function, keywords=keywords), geometry, weight, bias)


def _node(
    call: Call, nodes: list[Node], operation: Function, geometry: Geometry, weight: Operand, bias: object
) -> Node:
    inputs: tuple[int, ...] = (call.input.index, weight.index)
    if isinstance(bias, Operand):
        inputs = (*inputs, bias.index)
    elif bias is not None:
        raise call.unknown()
    if not all(nodes[index].is_constant for index in inputs[1:]):
        raise call.unknown()
    transfer = Weighted(call.where, constants(nodes, weight.index), geometry)
    return Node(call.where, operation, inputs, transfer, call.shape)


def _per_axis(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * axes if len(sizes) == 1 else sizes
