"""Layers of every kind, drawn one choice at a time: by hypothesis in the tests, by a seeded generator in the soak."""

import torch

from gloro_fast.nn import LinearMap
from gloro_fast.ops import Geometry

KINDS = (
    "normal",
    "whole numbers",
    "rank one",
    "nilpotent",
    "high pass",
    "low pass",
    "one tap",
    "channels far apart",
    "zero",
)
SCALES = (1.0, 1.0, 1e-20, 1e-38, 1e-44, 1e20, 3e38)
WIDE_SCALES = (1e-150, 1e-300, 5e-324, 1e150, 1e300)


def draw_layer(choose):
    """``choose(options)`` picks one of a sequence."""
    spatial = choose((0, 1, 1, 2, 2, 2, 3))
    dtype = choose((torch.float32, torch.float32, torch.float64))
    generator = torch.Generator().manual_seed(choose(range(10_000)))
    kind = choose(KINDS)
    # Padded circularly, taps may meet on an input: their sum is exact for float32 of one scale.
    circular = spatial > 0 and kind != "channels far apart" and dtype == torch.float32 and choose((False, False, True))
    scale = 1.0 if circular else choose(SCALES + (WIDE_SCALES if dtype == torch.float64 else ()))
    if spatial == 0:
        shape, geometry = (choose(range(1, 9)), choose(range(1, 9))), None
    else:
        shape, geometry = _draw_convolution(choose, spatial, circular)
    weight = _weight(kind, shape, generator)
    largest = torch.finfo(dtype).max
    weight = (weight * scale).clamp(-largest, largest).to(dtype)
    return LinearMap(weight, geometry or Geometry((shape[1],)))


def _draw_convolution(choose, spatial, circular):
    groups = choose((1, 1, 1, 2, 3))
    inputs, outputs = choose((1, 2, 3)), choose((1, 2, 3))
    sizes, taps, strides, paddings, dilations = [], [], [], [], []
    largest = 3 if spatial == 3 else 7
    for _ in range(spatial):
        size, kernel = choose(range(1, largest + 1)), choose((1, 2, 3, 3, 4, 5)[: 2 if spatial == 3 else 6])
        stride, dilation = choose((1, 1, 2, 3)), choose((1, 1, 1, 2, 3))
        most = size if circular else 4
        padding = (choose(range(min(most, 3) + 1)), choose(range(min(most, 3) + 1)))
        # The kernel must fit.
        lacking = dilation * (kernel - 1) + 1 - size - sum(padding)
        if lacking > 0:
            size, padding = (size + lacking, padding) if circular else (size, (padding[0], padding[1] + lacking))
        for values, value in zip(
            (sizes, taps, strides, paddings, dilations), (size, kernel, stride, padding, dilation), strict=True
        ):
            values.append(value)
    geometry = Geometry(
        (groups * inputs, *sizes),
        tuple(strides),
        tuple(paddings),
        tuple(dilations),
        groups,
        "circular" if circular else "zeros",
    )
    return (groups * outputs, inputs, *taps), geometry


def _weight(kind, shape, generator):
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    taps = shape[2:]
    if kind == "whole numbers":
        return normal.round()
    if kind == "rank one":
        factors = (torch.randn(size, generator=generator, dtype=torch.float64) for size in shape)
        product = next(factors)
        for factor in factors:
            product = product[..., None] * factor
        return product
    if kind == "nilpotent":
        # Strictly lower triangular in the channels: every eigenvalue is 0, the norm is not.
        lower = torch.arange(shape[0])[:, None] > torch.arange(shape[1])
        return normal * lower.reshape(*shape[:2], *(1 for _ in taps))
    if kind in ("high pass", "low pass"):
        sign = torch.ones(taps)
        for axis, size in enumerate(taps):
            alternating = (-1.0) ** torch.arange(size) if kind == "high pass" else torch.ones(size)
            sign = sign * alternating.reshape(*(-1 if other == axis else 1 for other in range(len(taps))))
        return normal.abs() * sign
    if kind == "one tap":
        chosen = torch.randint(normal.numel(), (), generator=generator)
        return normal * (torch.arange(normal.numel()) == chosen).reshape(shape)
    if kind == "channels far apart":
        exponents = torch.randint(-18, 19, shape[:2], generator=generator, dtype=torch.float64)
        return normal * (10.0**exponents).reshape(*shape[:2], *(1 for _ in taps))
    return normal * (kind != "zero")
