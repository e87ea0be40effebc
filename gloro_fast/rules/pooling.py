"""Rules of pooling: averages in closed form, maxima by how many windows a pixel is part of."""

from __future__ import annotations

import math
from fractions import Fraction

from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.registry import LipschitzConstant, known_type, register_lipschitz_rule
from gloro_fast.rules.settings import each
from gloro_fast.rules.traits import AVERAGES, SELECTION
from gloro_fast.rules.windows import (
    Window,
    adaptive_windows,
    largest_coverage,
    pooling_windows,
    remembered,
    root_up,
    squared_averaging_norm,
)

_DIMENSIONS: dict[type[nn.Module], int] = {
    getattr(nn, f"{name}Pool{count}d"): count
    for name in ("Avg", "Max", "AdaptiveAvg", "AdaptiveMax")
    for count in (1, 2, 3)
}
Sizes = tuple[int, ...]


@register_lipschitz_rule(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, traits=AVERAGES)
def average_pool(module: nn.Module, input_shape: Sizes) -> LipschitzConstant:
    """Return the norm of the averaging: 1 / k for a kernel of k x k pixels with stride k."""
    assert isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d)
    sizes = _spatial(module, input_shape)
    kernel, padding = (each(n, len(sizes)) for n in (module.kernel_size, module.padding))
    stride = kernel if module.stride is None else each(module.stride, len(sizes))
    override = getattr(module, "divisor_override", None)
    value = average_norm(sizes, kernel, stride, padding, module.ceil_mode, module.count_include_pad, override)
    return LipschitzConstant(value)


@register_lipschitz_rule(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, traits=AVERAGES)
def adaptive_average_pool(module: nn.Module, input_shape: Sizes) -> LipschitzConstant:
    """Return the norm of the averaging."""
    sizes = _spatial(module, input_shape)
    return LipschitzConstant(adaptive_average_norm(sizes, _outputs(module, sizes)))


@register_lipschitz_rule(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, traits=SELECTION)
def max_pool(module: nn.Module, input_shape: Sizes) -> LipschitzConstant:
    """Return the root of the number of windows that the busiest pixel is part of: 1 if they do not overlap.

    Each output moves by no more than the largest change in its window, so that the squares add up to at most that
    number times the squared change; raising that pixel above all others attains it.

    Raises:
        ArchitectureError: it gives indices too.
    """
    assert isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d)
    _refuse_indices(module)
    sizes = _spatial(module, input_shape)
    kernel, padding, dilation = (each(n, len(sizes)) for n in (module.kernel_size, module.padding, module.dilation))
    stride = kernel if module.stride is None else each(module.stride, len(sizes))
    return LipschitzConstant(max_norm(sizes, kernel, stride, padding, dilation, module.ceil_mode))


@register_lipschitz_rule(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, traits=SELECTION)
def adaptive_max_pool(module: nn.Module, input_shape: Sizes) -> LipschitzConstant:
    """Return the root of the number of windows that the busiest pixel is part of; see ``max_pool``."""
    _refuse_indices(module)
    sizes = _spatial(module, input_shape)
    return LipschitzConstant(adaptive_max_norm(sizes, _outputs(module, sizes)))


@remembered
def average_norm(
    sizes: Sizes,
    kernel: Sizes,
    stride: Sizes,
    padding: Sizes,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> float:
    """Return the norm of average pooling, rounded up; arguments as of ``torch.nn.AvgPool2d``, a number a dimension."""
    square = Fraction(1)
    for size, taps, step, pad in zip(sizes, kernel, stride, padding, strict=True):
        windows = pooling_windows(size, taps, step, pad, ceil_mode=ceil_mode)
        if divisor_override is not None:
            windows = [Window(window.pixels, 1) for window in windows]
        elif not count_include_pad:
            windows = [Window(window.pixels, len(window.pixels)) for window in windows]
        square *= squared_averaging_norm(windows)
    return root_up(square if divisor_override is None else square / divisor_override**2)


@remembered
def adaptive_average_norm(sizes: Sizes, outputs: Sizes) -> float:
    """Return the norm of adaptive average pooling, rounded up; one number a dimension."""
    axes = zip(sizes, outputs, strict=True)
    return root_up(math.prod((squared_averaging_norm(adaptive_windows(*axis)) for axis in axes), start=Fraction(1)))


@remembered
def max_norm(
    sizes: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool = False
) -> float:
    """Return the constant of max pooling, rounded up; arguments as of ``torch.nn.MaxPool2d``, a number a dimension."""
    axes = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return root_up(Fraction(math.prod(largest_coverage(pooling_windows(*axis, ceil_mode)) for axis in axes)))


@remembered
def adaptive_max_norm(sizes: Sizes, outputs: Sizes) -> float:
    """Return the constant of adaptive max pooling, rounded up; one number a dimension."""
    axes = zip(sizes, outputs, strict=True)
    return root_up(Fraction(math.prod(largest_coverage(adaptive_windows(*axis)) for axis in axes)))


def _spatial(module: nn.Module, input_shape: Sizes) -> Sizes:
    """Return the sizes that are pooled: the last ones; every dimension before them is a channel."""
    dimensions = _DIMENSIONS[known_type(module)]
    if len(input_shape) < dimensions:
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it pools {dimensions} dimensions")
    return input_shape[-dimensions:]


def _outputs(module: nn.Module, sizes: Sizes) -> Sizes:
    """Return the output size of each dimension; None stands for the input's."""
    asked = module.output_size
    outputs = asked if isinstance(asked, tuple | list) else (asked,) * len(sizes)
    return tuple(size if output is None else int(output) for output, size in zip(outputs, sizes, strict=True))


def _refuse_indices(module: nn.Module) -> None:
    if module.return_indices:
        raise ArchitectureError(f"{module} gives indices beside its values; set return_indices=False")
