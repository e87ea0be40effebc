"""Rules of dense layers and convolutions: their effective weight and geometry."""

from __future__ import annotations

from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import LinearMap, register_lipschitz_rule, require_spatial
from gloro_fast.rules.settings import each
from gloro_fast.rules.shapes import padding_norm

_Padding = tuple[tuple[int, int], ...]
_DIMENSIONS: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}


@register_lipschitz_rule(nn.Linear)
def linear(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the weight; on an input with leading dimensions it acts block by block, with the norm of one block."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return LinearMap(weight, Geometry(input_shape[-1:]))


@register_lipschitz_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the weight and how it acts.

    Where the padding copies pixels of the same side (reflect, replicate), it is the convolution without padding of the
    padded image, and the norm of the padding, 2 for one pixel around an image, is its factor.

    Raises:
        ArchitectureError: the input is not (channels, *spatial), or the padding is none that torch's layers have.
    """
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return convolution_by(module, module.weight, input_shape)


def convolution_by(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d,
    weight: Tensor,
    input_shape: tuple[int, ...],
    zeros: _Padding | None = None,
) -> LinearMap:
    """Give the convolution of ``module`` by another weight, or with other zeros around the image.

    Args:
        module: whose settings count.
        weight: what is applied.
        input_shape: of one image.
        zeros: (before, after) for each spatial dimension, instead of the padding in the settings.

    Raises:
        ArchitectureError: as :func:`convolution`.
    """
    # What forward reads counts: kernel_size, in_channels and out_channels may be those of another weight.
    spatial = _spatial(module, input_shape)
    stride, dilation = each(module.stride, spatial), each(module.dilation, spatial)
    mode = module.padding_mode
    padding: _Padding
    if zeros is not None:
        mode, padding = "zeros", zeros
    elif mode == "zeros":
        padding = _zeros(module.padding, weight, dilation)
    else:
        padding = _copies(module, spatial)
    if mode in ("zeros", "circular"):
        return LinearMap(weight, Geometry(input_shape, stride, padding, dilation, module.groups, mode))
    channels, *sizes = input_shape
    padded = (channels, *(before + size + after for size, (before, after) in zip(sizes, padding, strict=True)))
    nothing = ((0, 0),) * spatial
    factor = padding_norm(tuple(sizes), tuple(module._reversed_padding_repeated_twice), mode)
    return LinearMap(weight, Geometry(padded, stride, nothing, dilation, module.groups), factor=factor)


def _spatial(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Give the number of spatial dimensions of a convolution, which its input must have."""
    spatial = next(count for kind, count in _DIMENSIONS.items() if isinstance(module, kind))
    require_spatial(module, input_shape, spatial)
    return spatial


def _zeros(padding: str | int | tuple[int, ...], weight: Tensor, dilation: tuple[int, ...]) -> _Padding:
    """Give the zeros (before, after) for each spatial dimension."""
    kernel = weight.shape[2:]
    if isinstance(padding, str):
        totals = [gap * (taps - 1) if padding == "same" else 0 for gap, taps in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in each(padding, len(kernel)))


def _copies(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, spatial: int) -> _Padding:
    """Give the copied pixels (before, after) for each spatial dimension: what forward reads instead of ``padding``."""
    amounts = list(module._reversed_padding_repeated_twice)
    if module.padding_mode not in ("circular", "reflect", "replicate"):
        raise ArchitectureError(
            f"padding_mode is {module.padding_mode!r}; choose 'zeros', 'circular', 'reflect' or 'replicate'"
        )
    if len(amounts) != 2 * spatial or min(amounts) < 0:
        raise ArchitectureError(
            f"_reversed_padding_repeated_twice is {amounts}; make a layer with the padding that is wanted"
        )
    return tuple(reversed(tuple(zip(amounts[::2], amounts[1::2], strict=True))))


@register_lipschitz_rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def transposed_convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Give the convolution whose adjoint the layer is: same weight, from the layer's output to its input.

    Rows of the output that no tap reaches are always zero (an ``output_padding`` beyond ``padding`` makes such),
    and the convolution leaves them out.

    Raises:
        ArchitectureError: the input is not (channels, *spatial).
    """
    assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    spatial, weight = _spatial(module, input_shape), module.weight
    stride, dilation = each(module.stride, spatial), each(module.dilation, spatial)
    assert not isinstance(module.padding, str)
    cuts, extras = each(module.padding, spatial), each(module.output_padding, spatial)
    sizes, padding = [], []
    for size, taps, step, gap, cut, beyond in zip(
        input_shape[1:], weight.shape[2:], stride, dilation, cuts, extras, strict=True
    ):
        extra = min(beyond, cut)
        sizes.append((size - 1) * step + gap * (taps - 1) + 1 - 2 * cut + extra)
        padding.append((cut, cut - extra))
    channels = weight.shape[1] * module.groups
    geometry = Geometry((channels, *sizes), stride, tuple(padding), dilation, module.groups)
    return LinearMap(weight, geometry, transposed=True)
