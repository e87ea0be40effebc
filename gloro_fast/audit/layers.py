"""A network as matrices: every linear layer unrolled, entry by entry, by index arithmetic of this file's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn
from torch.nn.utils import parametrize

from gloro_fast.errors import ArchitectureError
from gloro_fast.files.attributes import shown_attributes, shown_settings

Array = NDArray[np.float64]
Pads = tuple[tuple[int, int], tuple[int, int]]

# By name: what is audited is not imported.
_SAME_CONV = "gloro_fast.nn.conv.Conv2d"
_MINMAX = "gloro_fast.nn.minmax.MinMax"
_KNOWN = (nn.Linear, nn.Conv2d, nn.ReLU, nn.Identity, nn.Flatten, _SAME_CONV, _MINMAX)
# What a subclass may define and still compute what its base does.
_HARMLESS = ("__init__", "__repr__", "extra_repr", "reset_parameters")


@dataclass(frozen=True)
class Affine:
    """A layer x -> matrix x + bias.

    Attributes:
        name: its name in the module.
        matrix: (outputs, inputs) float64, its entries the very weights.
        bias: (outputs,) float64, zeros where there is none.
        terms: the largest number of entries in a row.
        dense: whether the layer is a dense one, so that as the last it is the head.
        module: the layer itself.
        input_shape: of one input.
    """

    name: str
    matrix: sparse.csr_array
    bias: Array
    terms: int
    dense: bool
    module: nn.Module
    input_shape: tuple[int, ...]


@dataclass(frozen=True)
class Pairs:
    """MinMax of adjacent channels.

    Attributes:
        name: its name in the module.
        channels: their number, even.
    """

    name: str
    channels: int


@dataclass(frozen=True)
class Rectifier:
    """ReLU."""

    name: str


@dataclass(frozen=True)
class Copy:
    """A layer that moves no number to another place of the flattened image."""

    name: str


Layer = Affine | Pairs | Rectifier | Copy


def read_layers(module: nn.Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """Read every layer of a nested ``Sequential``.

    Args:
        module: the classifier, on the CPU and in evaluation mode.
        input_shape: of one image.

    Raises:
        ArchitectureError: the audit does not know a layer; names it.
    """
    found: list[Layer] = []
    shape = tuple(input_shape)
    for name, layer in _leaves(module):
        kind = _kind(layer)
        if kind is nn.Linear and len(shape) == 1:
            found.append(_dense(name, layer))
            shape = (found[-1].matrix.shape[0],)  # type: ignore[union-attr]
        elif kind in (nn.Conv2d, _SAME_CONV) and len(shape) == 3:
            affine, shape = _convolution(name, layer, shape)
            found.append(affine)
        elif kind == _MINMAX:
            found.append(Pairs(name, shape[0]))
        elif kind is nn.ReLU:
            found.append(Rectifier(name))
        elif kind is nn.Identity:
            found.append(Copy(name))
        elif kind is nn.Flatten and layer.start_dim == 1 and layer.end_dim == -1:
            found.append(Copy(name))
            shape = (math.prod(shape),)
        else:
            raise _unknown(name, layer, f" on {shape}")
    return found


def describe_modules(module: nn.Module) -> list[list[str]]:
    """List name, type and settings of every module of a nested ``Sequential``, as certificates record them.

    Raises:
        ArchitectureError: the audit does not know a layer; names it.
    """
    for name, layer in _leaves(module):
        if _kind(layer) is None:
            raise _unknown(name, layer)
    # Of layers that compute by their settings alone, other attributes are not recorded.
    return [
        [name, _name(type(child)), shown_settings(child) + ("" if _kind(child) else shown_attributes(child))]
        for name, child in module.named_modules(remove_duplicate=False)
    ]


def _kind(layer: nn.Module) -> type[nn.Module] | str | None:
    """Return the entry of ``_KNOWN`` that a layer computes as: its type, or one from which it only inherits."""
    for base in parametrize.type_before_parametrizations(layer).__mro__:
        known = next((known for known in _KNOWN if known is base or known == _name(base)), None)
        if known is not None:
            return known
        own = [value for name, value in vars(base).items() if name not in _HARMLESS]
        if any(callable(value) or hasattr(value, "__get__") for value in own):
            return None
    return None


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _unknown(name: str, layer: nn.Module, where: str = "") -> ArchitectureError:
    kind = parametrize.type_before_parametrizations(layer).__name__
    return ArchitectureError(f"{name or 'the module'} is a {kind}{where}; the audit does not know it")


def split_head(layers: Sequence[Layer]) -> tuple[Sequence[Layer], Sequence[Layer]]:
    """Split a network before its last dense layer, if nothing but ReLU and reshapes follow it; else at the end."""
    place = len(layers)
    while place and isinstance(layers[place - 1], Rectifier | Copy):
        place -= 1
    last = layers[place - 1] if place else None
    if not (isinstance(last, Affine) and last.dense):
        return layers, ()
    return layers[: place - 1], layers[place - 1 :]


def _leaves(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Go through the layers of nested ``Sequential`` with their names, in order of execution."""
    if type(module) is not nn.Sequential:
        yield name, module
        return
    # Not named_children(): that leaves out the second use of a layer, which runs all the same.
    for key, child in module._modules.items():
        assert child is not None
        yield from _leaves(child, f"{name}.{key}" if name else key)


def _dense(name: str, layer: nn.Module) -> Affine:
    weight = _numbers(layer.weight)
    bias = np.zeros(len(weight)) if layer.bias is None else _numbers(layer.bias)
    return Affine(name, sparse.csr_array(weight), bias, weight.shape[1], True, layer, weight.shape[1:])


def _convolution(name: str, layer: nn.Module, shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    assert isinstance(layer, nn.Conv2d)
    if layer.padding_mode != "zeros":
        raise ArchitectureError(f"{name} pads with {layer.padding_mode}; the audit knows zeros")
    weight, (height, width) = _numbers(layer.weight), shape[1:]
    outs, ins, *taps = weight.shape
    pads = _padding(layer, (height, width), taps)
    rows = [
        (size + before + after - gap * (tap - 1) - 1) // step + 1
        for size, (before, after), gap, tap, step in zip(
            (height, width), pads, layer.dilation, taps, layer.stride, strict=True
        )
    ]
    first_out = np.arange(outs)[:, None] * (rows[0] * rows[1])
    group = np.arange(outs) // (outs // layer.groups)
    first_in = (group[:, None] * ins + np.arange(ins)[None]) * (height * width)
    entries: list[tuple[Array, NDArray[np.int64], NDArray[np.int64]]] = []
    for u in range(taps[0]):
        for v in range(taps[1]):
            y, from_y = _reached(rows[0], layer.stride[0], pads[0][0], u * layer.dilation[0], height)
            x, from_x = _reached(rows[1], layer.stride[1], pads[1][0], v * layer.dilation[1], width)
            out = (y[:, None] * rows[1] + x[None]).ravel()
            source = (from_y[:, None] * width + from_x[None]).ravel()
            block = (outs, ins, len(out))
            entries.append(
                (
                    np.broadcast_to(weight[:, :, u, v, None], block).ravel(),
                    np.broadcast_to(first_out[:, :, None] + out, block).ravel(),
                    (first_in[:, :, None] + source).ravel(),
                )
            )
    values, at, source = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    size = (outs * rows[0] * rows[1], math.prod(shape))
    matrix = sparse.csr_array(sparse.coo_array((values, (at, source)), shape=size))
    bias = np.zeros(outs) if layer.bias is None else _numbers(layer.bias)
    spread = np.repeat(bias, rows[0] * rows[1])
    return Affine(name, matrix, spread, int(np.bincount(at).max()), False, layer, shape), (outs, *rows)


def _reached(count: int, step: int, before: int, offset: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the outputs along an axis for which a tap meets the image, and the place of the image that it meets."""
    out = np.arange(count)
    source = out * step - before + offset
    inside = (source >= 0) & (source < size)
    return out[inside], source[inside]


def _padding(layer: nn.Conv2d, sizes: tuple[int, int], taps: list[int]) -> Pads:
    if getattr(layer, "same", False):
        # As TensorFlow: ceil(size / stride) outputs, the odd zero at the end.
        totals = [
            max(0, (math.ceil(size / step) - 1) * step + gap * (tap - 1) + 1 - size)
            for size, step, gap, tap in zip(sizes, layer.stride, layer.dilation, taps, strict=True)
        ]
    elif isinstance(layer.padding, str):
        same = layer.padding == "same"
        totals = [gap * (tap - 1) if same else 0 for gap, tap in zip(layer.dilation, taps, strict=True)]
    else:
        vertical, horizontal = layer.padding
        return (vertical, vertical), (horizontal, horizontal)
    vertical, horizontal = totals
    return (vertical // 2, vertical - vertical // 2), (horizontal // 2, horizontal - horizontal // 2)


def _numbers(tensor: object) -> Array:
    assert isinstance(tensor, torch.Tensor)
    return tensor.detach().cpu().double().contiguous().numpy()
