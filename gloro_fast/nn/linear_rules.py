"""Rules of dense layers and convolutions: their effective weight and geometry."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.nn.rules import LinearMap, register_lipschitz_rule, require_spatial
from gloro_fast.nn.shape_rules import padding_norm
from gloro_fast.ops.geometry import Geometry

_Padding = tuple[tuple[int, int], ...]


@register_lipschitz_rule(nn.Linear)
def linear(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the weight; on an input with leading dimensions it acts block by block, with the norm of one block."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return LinearMap(weight, Geometry(input_shape[-1:]))


@register_lipschitz_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2d)
def convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the weight and how it acts.

    Where the padding copies pixels of the same side (reflect, replicate), it is the convolution without padding of the
    padded image, and the norm of the padding, 2 for one pixel around an image, is its factor.

    Raises:
        ArchitectureError: the input is not (channels, *spatial).
    """
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    require_spatial(module, input_shape, len(module.kernel_size))
    padding, mode = _padding(module, input_shape), module.padding_mode
    if mode in ("zeros", "circular"):
        geometry = Geometry(input_shape, module.stride, padding, module.dilation, module.groups, mode)
        return LinearMap(module.weight, geometry)
    channels, *sizes = input_shape
    padded = (channels, *(before + size + after for size, (before, after) in zip(sizes, padding, strict=True)))
    nothing = ((0, 0),) * len(padding)
    amounts = tuple(amount for pair in reversed(padding) for amount in pair)
    factor = padding_norm(tuple(sizes), amounts, mode)
    return LinearMap(
        module.weight, Geometry(padded, module.stride, nothing, module.dilation, module.groups), factor=factor
    )


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, input_shape: tuple[int, ...]) -> _Padding:
    """Give (before, after) for each spatial dimension."""
    if isinstance(module, Conv2d) and module.same:
        return module.same_padding(*input_shape[1:])
    if isinstance(module.padding, str):
        totals = [
            gap * (taps - 1) if module.padding == "same" else 0
            for gap, taps in zip(module.dilation, module.kernel_size, strict=True)
        ]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in module.padding)


@register_lipschitz_rule(ResidualConv2d)
def residual_convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the kernel with the identity added, which is the one that is applied.

    Raises:
        ArchitectureError: the input is not (channels, height, width).
    """
    assert isinstance(module, ResidualConv2d)
    return dataclasses.replace(convolution(module, input_shape), weight=module.merged_weight())


@register_lipschitz_rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def transposed_convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the convolution whose adjoint the layer is: same weight, from the layer's output to its input.

    Rows of the output that no tap reaches are always zero (an ``output_padding`` beyond ``padding`` makes such),
    and the convolution leaves them out.

    Raises:
        ArchitectureError: the input is not (channels, *spatial).
    """
    assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    require_spatial(module, input_shape, len(module.kernel_size))
    sizes, padding = [], []
    for axis, size in enumerate(input_shape[1:]):
        cut, extra = int(module.padding[axis]), min(int(module.output_padding[axis]), int(module.padding[axis]))
        full = (size - 1) * module.stride[axis] + module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        sizes.append(full - 2 * cut + extra)
        padding.append((cut, cut - extra))
    geometry = Geometry((module.out_channels, *sizes), module.stride, tuple(padding), module.dilation, module.groups)
    return LinearMap(module.weight, geometry, transposed=True)
