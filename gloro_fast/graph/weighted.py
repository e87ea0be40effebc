"""Dense layers, matrix products, convolutions and batch normalization whose weights are tensors of parameters."""

from __future__ import annotations

from typing import Any

import torch

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.call import Call, Operand
from gloro_fast.graph.node import Node, Normalized, Weighted, constants
from gloro_fast.graph.operations import Function
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.linear import adjoint_geometry, zeros_around
from gloro_fast.rules.settings import each


def linear(call: Call, nodes: list[Node]) -> Node:
    """Read ``F.linear(x, weight, bias)``."""
    weight = _weight(call, call.given["weight"], 2)
    return _node(call, nodes, weight, Geometry(call.input.shape[-1:]), call.given["bias"])


def matrix_product(call: Call, nodes: list[Node]) -> Node:
    """Read ``x @ weight``: a dense layer with the transposed weight."""
    x, weight = call.given["self"], call.given["other" if "other" in call.given else "mat2"]
    if not (x.constant or weight.constant):
        raise call.unknown()
    if x.constant or len(weight.shape) != 2 or x.value.ndim < 2:
        raise ArchitectureError(
            f"{call.where} is no product x @ weight with a matrix of parameters; use that, or F.linear(x, weight)"
        )
    return _node(call, nodes, _transposed(call, nodes, weight), Geometry(x.shape[-1:]), None)


def affine_product(call: Call, nodes: list[Node]) -> Node:
    """Read ``torch.addmm(bias, x, weight)``."""
    bias, x, weight = (call.given[key] for key in ("self", "mat1", "mat2"))
    if x.constant or not weight.constant or not bias.constant or (call.given["beta"], call.given["alpha"]) != (1, 1):
        raise call.unknown()
    return _node(call, nodes, _transposed(call, nodes, weight), Geometry(x.shape[-1:]), None)


def _transposed(call: Call, nodes: list[Node], weight: Operand) -> int:
    # A node of its own, that only the constant of this one rests on.
    transpose = Function(torch.ops.aten.t.default)
    nodes.append(Node(call.where, transpose, (weight.index,), shape=tuple(reversed(weight.shape))))
    return len(nodes) - 1


def convolution(call: Call, nodes: list[Node]) -> Node:
    """Read ``F.conv2d(x, weight, bias, stride, padding, dilation, groups)`` and its like."""
    given = call.given
    x = call.input
    axes = len(x.shape) - 1
    weight = _weight(call, given["weight"], axes + 2)
    stride, dilation = each(given["stride"], axes), each(given["dilation"], axes)
    padding = zeros_around(given["padding"], given["weight"].value, dilation)
    geometry = Geometry(x.shape, stride, padding, dilation, given["groups"])
    return _node(call, nodes, weight, geometry, given["bias"])


def transposed_convolution(call: Call, nodes: list[Node]) -> Node:
    """Read ``F.conv_transpose2d`` and its like: the adjoint of the convolution with the same weight."""
    given = call.given
    axes = len(call.input.shape) - 1
    weight = _weight(call, given["weight"], axes + 2)
    stride, cuts, gaps, extras = (each(given[key], axes) for key in ("stride", "padding", "dilation", "output_padding"))
    geometry = adjoint_geometry(call.input.shape, given["weight"].shape, stride, cuts, gaps, extras, given["groups"])
    return _node(call, nodes, weight, geometry, given["bias"], transposed=True)


def batch_norm(call: Call, nodes: list[Node]) -> Node:
    """Read ``F.batch_norm``: a number a channel, from the running statistics."""
    given = call.given
    variance = given["running_var"]
    if variance is None or (given["training"] and not call.training):
        raise ArchitectureError(
            f"{call.where} without running statistics mixes the images of a batch also in evaluation; set "
            "track_running_stats=True, and training=self.training"
        )
    weight = given["weight"]
    if any(isinstance(tensor, Operand) and not tensor.constant for tensor in (variance, weight, given["bias"])):
        raise call.unknown()
    gain = None if weight is None else constants(nodes, weight.index)
    transfer = Normalized(call.where, gain, constants(nodes, variance.index), given["eps"], len(call.input.shape))
    return call.node(transfer)


def _weight(call: Call, weight: Any, rank: int) -> int:
    if not isinstance(weight, Operand) or not weight.constant or len(weight.shape) != rank:
        raise call.unknown()
    return weight.index


def _node(call: Call, nodes: list[Node], weight: int, geometry: Geometry, bias: Any, transposed: bool = False) -> Node:
    if bias is not None and not bias.constant:
        raise call.unknown()
    return call.node(Weighted(call.where, constants(nodes, weight), geometry, transposed))
