"""Rules of dense layers and convolutions: their effective weight and geometry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.ops.dense_op import dense
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import LinearMap, register_by_name, register_lipschitz_rule, require_spatial
from gloro_fast.rules.settings import each
from gloro_fast.rules.shapes import padding_norm
from gloro_fast.rules.traits import Traits

_Padding = tuple[tuple[int, int], ...]
_DIMENSIONS: dict[type[nn.Module], int] = {
    getattr(nn, f"{name}{count}d"): count for name in ("Conv", "ConvTranspose") for count in (1, 2, 3)
}


def _dense(module: nn.Linear, x: Tensor) -> Tensor:
    return dense(x, module.weight)


def _convolved(module: nn.Conv2d, x: Tensor) -> Tensor:
    y: Tensor = module._conv_forward(x, module.weight, None)
    return y


LINEAR = Traits(is_its_map=True, multiplies=True, rounding="sums", spares_output=True)
"""Of a layer that computes what its rule says, with its ``weight``."""


@register_lipschitz_rule(nn.Linear, traits=dataclasses.replace(LINEAR, without_bias=_dense))
def linear(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Return the weight; on an input with leading dimensions it acts block by block, with the norm of one block."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return LinearMap(weight, Geometry(input_shape[-1:]))


# torchlip's have a forward of their own for one more way to pad. Where it is used, a net finds that settings and layer
# disagree, and refuses them.
@register_by_name(
    "deel.torchlip.modules.conv.SpectralConv1d",
    "deel.torchlip.modules.conv.SpectralConv2d",
    traits=LINEAR,
)
@register_lipschitz_rule(nn.Conv2d, traits=dataclasses.replace(LINEAR, without_bias=_convolved))
@register_lipschitz_rule(nn.Conv1d, traits=LINEAR)
@register_lipschitz_rule(nn.Conv3d, traits=dataclasses.replace(LINEAR, spares_output=False))
def convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Return the weight and how it acts.

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
    """Return the convolution of ``module`` by another weight, or with other zeros around the image.

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
        padding = zeros_around(module.padding, weight, dilation)
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
    """Return the number of spatial dimensions of a convolution, which its input must have."""
    spatial = next(count for kind, count in _DIMENSIONS.items() if isinstance(module, kind))
    require_spatial(module, input_shape, spatial)
    return spatial


def zeros_around(padding: str | int | Sequence[int], weight: Tensor, dilation: Sequence[int]) -> _Padding:
    """Return the zeros (before, after) that a convolution's setting stands for, for each spatial dimension."""
    kernel = weight.shape[2:]
    if isinstance(padding, str):
        totals = [gap * (taps - 1) if padding == "same" else 0 for gap, taps in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in each(padding, len(kernel)))


def _copies(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, spatial: int) -> _Padding:
    """Return the copied pixels (before, after) of each spatial dimension: forward reads these, not ``padding``."""
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


@register_lipschitz_rule(
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, traits=Traits(multiplies=True, rounding="sums")
)
def transposed_convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Return the convolution whose adjoint the layer is: same weight, from the layer's output to its input.

    Raises:
        ArchitectureError: the input is not (channels, *spatial).
    """
    assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    spatial, weight = _spatial(module, input_shape), module.weight
    stride, dilation = each(module.stride, spatial), each(module.dilation, spatial)
    assert not isinstance(module.padding, str)
    cuts, extras = each(module.padding, spatial), each(module.output_padding, spatial)
    geometry = adjoint_geometry(input_shape, weight.shape, stride, cuts, dilation, extras, module.groups)
    return LinearMap(weight, geometry, transposed=True)


def adjoint_geometry(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: tuple[int, ...],
    cuts: Sequence[int],
    dilation: tuple[int, ...],
    extras: Sequence[int],
    groups: int,
) -> Geometry:
    """Return the convolution whose adjoint a transposed convolution with these settings is.

    Rows of the output that no tap reaches are always zero, or the bias (an ``output_padding`` in ``extras`` beyond the
    ``padding`` in ``cuts`` makes such), and the convolution leaves them out.
    """
    sizes, padding = [], []
    for size, taps, step, gap, cut, beyond in zip(
        input_shape[1:], weight_shape[2:], stride, dilation, cuts, extras, strict=True
    ):
        extra = min(beyond, cut)
        sizes.append((size - 1) * step + gap * (taps - 1) + 1 - 2 * cut + extra)
        padding.append((cut, cut - extra))
    return Geometry((weight_shape[1] * groups, *sizes), stride, tuple(padding), dilation, groups)
