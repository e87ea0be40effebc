"""Functions that move the elements of each image and change none: their constant is 1."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.graph.call import Call
from gloro_fast.graph.node import Fixed, Node
from gloro_fast.graph.operations import Function, Operation, Reshape
from gloro_fast.nn.real import require_floating
from gloro_fast.nn.rules import LipschitzConstant

ONE = LipschitzConstant(1.0)

RESHAPES = (
    torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten,
    "flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten",
)  # fmt: skip
COPIES = (torch.clone, "contiguous", "clone", "detach")
WIDER = ("float", "double", "to")
SWAPS = (torch.transpose, torch.swapaxes, torch.swapdims, "transpose", "swapaxes", "swapdims")
PERMUTATIONS = (torch.permute, "permute")
FLIPS = (torch.flip, "flip")
ROLLS = (torch.roll, "roll")
PARTS = (torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind")
CUTS = (torch.narrow, torch.select, "narrow", "select")


def one(call: Call, operation: Operation, *, shares: bool = True) -> Node:
    """Make the node of a map whose constant is 1."""
    shape = call.shape if isinstance(call.output, Tensor) else ()
    return Node(call.where, operation, (call.input.index,), Fixed(call.where, ONE), shape, shares=shares)


def reshape(call: Call) -> Node:
    """Give the images another shape. With as many images as before, and in order, none meets another."""
    if call.output.shape[0] != call.input.value.shape[0] or call.output.numel() != call.input.value.numel():
        raise call.mixes()
    return one(call, Reshape(call.shape))


def copy(call: Call) -> Node:
    """Copy the values, in another memory format perhaps."""
    if call.function == "detach":
        return one(call, Function(torch.Tensor.detach))
    if call.function == "contiguous":
        return one(call, Function(torch.Tensor.contiguous))
    return one(call, Function(torch.clone), shares=False)


def wider(call: Call) -> Node:
    """Convert to a type that holds all values, or do nothing."""
    before, after = call.input.value, call.output
    require_floating(call.where, after)
    if torch.promote_types(before.dtype, after.dtype) != after.dtype or before.device != after.device:
        raise call.unknown()
    return one(call, Function(torch.Tensor.to, after=(after.dtype,)))


def swap(call: Call) -> Node:
    """Exchange two dimensions of the images."""
    names = ("dim0", "dim1") if "dim0" in call.keywords or "axis0" not in call.keywords else ("axis0", "axis1")
    first, second = call.dims(call.read(*names))
    return one(call, Function(torch.Tensor.transpose, after=(first, second)))


def permute(call: Call) -> Node:
    """Bring the dimensions of the images into another order."""
    if "dims" in call.keywords:
        (dims,) = call.read("dims")
    else:
        dims = _listed(call)
    rank = 1 + len(call.input.shape)
    if not dims or dims[0] % rank != 0:
        raise call.mixes()
    return one(call, Function(torch.Tensor.permute, after=tuple(dims)))


def flip(call: Call) -> Node:
    """Reverse dimensions of the images."""
    dims = call.read("dims")[0] if "dims" in call.keywords else _listed(call)
    return one(call, Function(torch.flip, after=(tuple(call.dims(dims)),)), shares=False)


def roll(call: Call) -> Node:
    """Roll dimensions of the images, what leaves at one end coming in at the other."""
    shifts, dims = call.read("shifts", "dims")
    if dims is None:
        raise call.mixes()
    call.dims(dims)
    return one(call, Function(torch.roll, after=(shifts, dims)), shares=False)


def parts(call: Call) -> Node:
    """Cut the images into a tuple of parts; together they have the norm of the whole."""
    function: Any = call.function if not isinstance(call.function, str) else getattr(torch, call.function)
    name = function.__name__
    argument = {"chunk": "chunks", "split": "split_size_or_sections", "unbind": None}[name]
    if argument == "split_size_or_sections" and "split_size" in call.keywords:
        argument = "split_size"
    sizes, dim = call.read(argument, "dim", dim=0) if argument else (None, *call.read("dim", dim=0))
    (dim,) = call.dims(dim)
    after = (dim,) if sizes is None else (tuple(sizes) if isinstance(sizes, list) else sizes, dim)
    return one(call, Function(_split if name == "split" else function, after=after))


def _split(x: Tensor, sizes: int | tuple[int, ...], dim: int) -> tuple[Tensor, ...]:
    return torch.split(x, sizes if isinstance(sizes, int) else list(sizes), dim)


def cut(call: Call) -> Node:
    """Take one or several neighbouring places of a dimension of the images."""
    name = call.function if isinstance(call.function, str) else call.function.__name__
    rest = call.read("dim", "start", "length") if name == "narrow" else call.read("dim", "index")
    (dim,) = call.dims(rest[0])
    return one(call, Function(getattr(torch, name), after=(dim, *rest[1:])))


def index(call: Call) -> Node:
    """Slice the images: ``x[:, a:b]``, ``x[..., 0]``; or pick a part of a tuple of tensors."""
    source, key = call.args[0], call.args[1]
    if not isinstance(source.value, Tensor):
        transfer = Fixed(call.where, ONE)
        operation = Function(operator.getitem, after=(key,))
        shape = call.shape if isinstance(call.output, Tensor) else ()
        return Node(call.where, operation, (source.index,), transfer, shape, shares=True)
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(item is None or item is Ellipsis or type(item) in (int, slice) for item in keys):
        raise call.unknown()
    if Ellipsis in keys:
        taken = sum(item is not None and item is not Ellipsis for item in keys)
        place = keys.index(Ellipsis)
        keys[place : place + 1] = [slice(None)] * (1 + len(call.input.shape) - taken)
    if not keys or keys[0] != slice(None):
        raise call.mixes()
    bounds = [bound for item in keys if isinstance(item, slice) for bound in (item.start, item.stop, item.step)]
    if not all(bound is None or type(bound) is int for bound in bounds):
        raise call.unknown()
    return one(call, Function(operator.getitem, after=(tuple(keys),)))


def pad(call: Call) -> Node:
    """Pad the images with a number, or crop them."""
    amounts, mode, value = call.read("pad", "mode", "value", mode="constant")
    if mode != "constant":
        raise call.unknown()
    if len(amounts) > 2 * len(call.input.shape):
        raise call.mixes()
    return one(call, Function(F.pad, after=(tuple(amounts), mode, value)), shares=False)


def dropout(call: Call) -> Node:
    """Drop nothing, as in evaluation; in training the elements that are left are scaled, which is left out of K."""
    p, training, inplace = call.read("p", "training", "inplace", p=0.5, training=True, inplace=False)
    if inplace:
        raise call.unknown()
    return one(call, Function(call.function, after=(p, training)), shares=not training)  # type: ignore[arg-type]


def _listed(call: Call) -> list[Any]:
    """The arguments after the first, given one by one or as one list."""
    rest = call.args[1:]
    return list(rest[0]) if len(rest) == 1 and isinstance(rest[0], tuple | list) else list(rest)
