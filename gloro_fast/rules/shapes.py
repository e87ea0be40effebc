"""Rules of layers that move or copy pixels: reshaping, shuffling, padding, repetition."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.registry import LipschitzConstant, known_type, register_lipschitz_rule
from gloro_fast.rules.traits import ELEMENTWISE, SELECTION
from gloro_fast.rules.windows import remembered, root_up

_T = TypeVar("_T", int, float)
_ONE = LipschitzConstant(1.0)
_COUNTABLE = 2**24
"""The whole numbers up to it are float32 numbers."""
_MODES = {
    "Zero": "constant",
    "Constant": "constant",
    "Reflection": "reflect",
    "Replication": "replicate",
    "Circular": "circular",
}
_PADDED: dict[type[nn.Module], tuple[int, str]] = {
    getattr(nn, f"{name}Pad{count}d"): (count, mode) for name, mode in _MODES.items() for count in (1, 2, 3)
}


@register_lipschitz_rule(nn.Flatten, nn.Unflatten, traits=SELECTION)
def reshape(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1.

    Raises:
        ArchitectureError: it takes the batch for a dimension of its own.
    """
    first = module.start_dim if isinstance(module, nn.Flatten) else module.dim
    # The input has a batch dimension in front, so that dim = -k counts from len(input_shape) + 1.
    if not isinstance(first, int) or first % (len(input_shape) + 1) == 0:
        raise ArchitectureError(f"{module} mixes the images of a batch; start at dimension 1")
    return _ONE


@register_lipschitz_rule(nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, traits=SELECTION)
def shuffle(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return 1: pixels change places.

    Raises:
        ArchitectureError: with fewer dimensions the batch would be taken for channels.
    """
    if len(input_shape) < 3:
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs (channels, height, width)")
    return _ONE


@register_lipschitz_rule(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, traits=ELEMENTWISE)
@register_lipschitz_rule(*(kind for kind in _PADDED if "Constant" not in kind.__name__), traits=SELECTION)
def pad(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return the root of how often the busiest pixel is repeated: 1 for constants, whatever their value.

    The matrix has one 1 in each row, so that its columns are orthogonal and their largest norm is its own.

    Raises:
        ArchitectureError: with fewer dimensions it would pad the batch.
    """
    dimensions, mode = _PADDED[known_type(module)]
    if len(input_shape) <= dimensions:
        needed = ("channels, length", "channels, height, width", "channels, depth, height, width")[dimensions - 1]
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs ({needed})")
    if mode == "constant":
        return _ONE
    amounts: tuple[int, ...] = module.padding  # type: ignore[assignment]
    return LipschitzConstant(padding_norm(input_shape[-dimensions:], tuple(amounts), mode))


@register_lipschitz_rule(nn.Upsample, nn.UpsamplingNearest2d, traits=ELEMENTWISE)
def upsample(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Return the root of how often the busiest pixel is repeated.

    Raises:
        ArchitectureError: it mixes pixels, or the batch would be taken for channels.
    """
    assert isinstance(module, nn.Upsample)
    if module.mode not in ("nearest", "nearest-exact"):
        raise ArchitectureError(f"mode is {module.mode!r}, which has no rule; use 'nearest'")
    if len(input_shape) < 2:
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs channels before the pixels")
    size = tuple(module.size) if isinstance(module.size, list | tuple) else module.size
    factor = tuple(module.scale_factor) if isinstance(module.scale_factor, list | tuple) else module.scale_factor
    return LipschitzConstant(repetition_norm(input_shape[1:], size, factor, module.mode, module.recompute_scale_factor))


@remembered
def padding_norm(sizes: tuple[int, ...], amounts: tuple[int, ...], mode: str) -> float:
    """Return the norm of padding that copies, rounded up.

    Args:
        sizes: of the padded dimensions.
        amounts: before and after each, the last dimension first, as ``torch.nn.functional.pad`` has them.
        mode: ``"reflect"``, ``"replicate"`` or ``"circular"``.
    """
    repeated = 1
    for axis, size in enumerate(reversed(sizes)):
        row = torch.arange(size, dtype=torch.float64)[None, None]
        repeated *= _most_frequent(F.pad(row, amounts[2 * axis : 2 * axis + 2], mode=mode))
    return root_up(Fraction(repeated))


@remembered
def repetition_norm(
    sizes: tuple[int, ...],
    size: int | tuple[int, ...] | None,
    scale_factor: float | tuple[float, ...] | None,
    mode: str,
    recompute_scale_factor: bool | None = None,
) -> float:
    """Return the norm of nearest-neighbour interpolation, rounded up; ``sizes`` are those of the image.

    Each dimension copies its pixels by itself, and which ones is found by interpolating their numbers: rounding in
    torch may repeat a pixel more often than the factor says. It computes places in float32 or in float64, by the type
    and layout of the images; the rule holds for both.
    """
    repeated = 1
    for axis, pixels in enumerate(sizes):
        if pixels > _COUNTABLE:
            raise ArchitectureError(f"an image {pixels} pixels long has more than float32 can count; crop it")
        counts = []
        for dtype in (torch.float32, torch.float64):
            copies = F.interpolate(
                torch.arange(pixels, dtype=dtype)[None, None],
                size=_of_axis(size, axis),
                scale_factor=_of_axis(scale_factor, axis),
                mode=mode,
                recompute_scale_factor=recompute_scale_factor,
            )
            counts.append(_most_frequent(copies))
        repeated *= max(counts)
    return root_up(Fraction(repeated))


def _of_axis(setting: _T | tuple[_T, ...] | None, axis: int) -> _T | None:
    return setting[axis] if isinstance(setting, tuple) else setting


def _most_frequent(numbers: torch.Tensor) -> int:
    return int(numbers.long().flatten().bincount().max()) if numbers.numel() else 0
