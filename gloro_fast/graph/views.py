"""Operations that move or copy the elements of each image and change none."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.call import Call, Number, Operand
from gloro_fast.graph.node import Fixed, Node
from gloro_fast.graph.operations import Function, Reshape, Slot
from gloro_fast.rules.real import require_floating
from gloro_fast.rules.registry import LipschitzConstant
from gloro_fast.rules.shapes import padding_norm
from gloro_fast.rules.windows import largest_coverage, pooling_windows, root_up

ONE = LipschitzConstant(1.0)


def one(call: Call) -> Node:
    """Read what copies each image as it is, or into another order."""
    return call.of_one(Fixed(call.where, ONE))


def reshape(call: Call) -> Node:
    """Read another shape of the images. With as many images as before, and in order, none meets another."""
    x = call.input
    if "dtype" in call.given or math.prod(call.shape) != math.prod(x.shape):
        raise call.unknown()
    return call.of_one(Fixed(call.where, ONE), Reshape(call.shape))


def wider(call: Call) -> Node:
    """Read a conversion to a type that holds all values, or to none."""
    before, after = call.input.value, call.output
    require_floating(call.where, after)
    if torch.promote_types(before.dtype, after.dtype) != after.dtype or before.device != after.device:
        raise call.unknown()
    other = call.given.get("other")
    if isinstance(other, Operand):  # As another tensor is.
        function = Function(torch.ops.aten.to.dtype, (Slot(0), after.dtype))
        return call.of_one(Fixed(call.where, ONE), function)
    return one(call)


def swap(call: Call) -> Node:
    """Read an exchange of two dimensions of the images."""
    call.dims([call.given["dim0"], call.given["dim1"]])
    return one(call)


def transpose_matrix(call: Call) -> Node:
    """Refuse the transpose of a batch of vectors."""
    raise call.mixes()


def permute(call: Call) -> Node:
    """Read another order of the dimensions of the images."""
    if call.given["dims"][0] % (1 + len(call.input.shape)) != 0:
        raise call.mixes()
    return one(call)


def along_dims(call: Call) -> Node:
    """Read what moves elements along dimensions of the images, or cuts them there, such as flip, roll and chunk."""
    dims = call.given["dims"] if "dims" in call.given else call.given["dim"]
    if dims in (None, [], ()):
        raise call.mixes()
    call.dims(dims)
    return one(call)


def cut(call: Call) -> Node:
    """Read a slice of a dimension of the images; one of the whole batch is all of it."""
    start, end, step = (call.given[key] for key in ("start", "end", "step"))
    whole = start in (None, 0) and step == 1 and _is_all(end)
    if call.given["dim"] % (1 + len(call.input.shape)) == 0:
        if not whole:
            raise call.mixes()
        return call.of_one(Fixed(call.where, ONE), Reshape(call.shape))
    return one(call)


def _is_all(end: Any) -> bool:
    return end is None or (isinstance(end, Number) and end.is_batch_size) or (type(end) is int and end >= sys.maxsize)


def repeat(call: Call) -> Node:
    """Read copies of each image beside itself: n of each element have sqrt(n) times the norm."""
    x = call.input
    before, after = math.prod(x.shape), math.prod(call.shape)
    if before == 0 or after % before:
        raise call.unknown()
    if len(call.shape) < len(x.shape) or call.output.ndim != x.value.ndim:
        raise call.mixes()
    known = LipschitzConstant(root_up(Fraction(after // before)))
    if call.packet in ("expand", "expand_as"):
        return call.of_one(
            Fixed(call.where, known), Function(torch.ops.aten.expand.default, (Slot(0), [-1, *call.shape]))
        )
    return call.of_one(Fixed(call.where, known))


def pad(call: Call) -> Node:
    """Read padding of the images with a number or with copies of pixels, or cropping."""
    amounts, mode = list(call.given["pad"]), call.given.get("mode", "constant")
    x, dimensions = call.input, len(amounts) // 2
    if dimensions > len(x.shape):
        raise call.mixes()
    if mode == "constant":
        return one(call)
    return call.of_one(Fixed(call.where, LipschitzConstant(padding_norm(x.shape[-dimensions:], tuple(amounts), mode))))


def windows(call: Call) -> Node:
    """Read all windows of the images side by side: a pixel that is in n of them counts sqrt(n)."""
    x, given = call.input, call.given
    if call.packet == "unfold":
        (dim,) = call.dims(given["dimension"])
        axes = [(x.value.shape[dim], given["size"], given["step"], 0, 1)]
    else:
        if len(x.shape) != 3:
            raise call.unknown()
        settings = [given[key] for key in ("kernel_size", "stride", "padding", "dilation")]
        axes = list(zip(x.shape[1:], *settings, strict=True))
    coverage = math.prod(largest_coverage(pooling_windows(*axis)) for axis in axes)
    return call.of_one(Fixed(call.where, LipschitzConstant(root_up(Fraction(coverage)))))


def part(call: Call) -> Node:
    """Read one tensor of a tuple, which has the norm of all of them already."""
    source = call.given["tuple"]
    if not isinstance(source, Operand) or not isinstance(call.output, Tensor):
        raise call.unknown()
    return call.node(Fixed(call.where, ONE))


def dropout(call: Call) -> Node:
    """Read dropout: nothing in evaluation; in training the elements that are left are scaled, which K leaves out."""
    if call.given["train"] and not call.training:
        raise ArchitectureError(f"{call.where} drops at random in evaluation too; pass training=self.training")
    return one(call)
