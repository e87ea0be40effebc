"""Layers that shift and scale by constants: input normalization, and one factor for all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.rules.real import require_floating
from gloro_fast.rules.registry import Diagonal, LipschitzConstant, register_lipschitz_rule
from gloro_fast.rules.traits import Affine, Traits


class Normalize(nn.Module):
    """Give (x - mean) / std, channel by channel, as the first layer: epsilon then stays in units of the raw pixels.

    Input and output are (B, C, ...) of the same dtype. ``mean`` and ``std`` are buffers, part of the ``state_dict``.

    Args:
        mean: one number a channel, or one for all.
        std: as many, each > 0.

    Raises:
        ConfigError: not finite, std not > 0, or unequal numbers of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.as_tensor(value, dtype=torch.get_default_dtype()).reshape(-1) for value in (mean, std))
        if len(means) != len(stds) or not len(means):
            raise ConfigError(f"mean has {len(means)} numbers and std {len(stds)}; give one of each a channel")
        if not (means.isfinite().all() and stds.isfinite().all() and (stds > 0).all()):
            raise ConfigError(f"mean is {means.tolist()}, std {stds.tolist()}; all must be finite, and std above 0")
        self.register_buffer("mean", means)
        self.register_buffer("std", stds)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``."""
        shape = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.to(x.dtype).reshape(shape)) / self.std.to(x.dtype).reshape(shape)

    def extra_repr(self) -> str:
        """Show the numbers."""
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"


class Scale(nn.Module):
    """Multiply by a constant, such as the temperature of the logits.

    Args:
        factor: a finite number.

    Raises:
        ConfigError: it is not finite.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not math.isfinite(factor):
            raise ConfigError(f"factor is {factor}; give a finite number")
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``factor * x``."""
        return self.factor * x

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"{self.factor:g}"


def _affine(module: Normalize) -> Affine:
    return Affine(module.mean, module.std.double().square())


@register_lipschitz_rule(Normalize, traits=Traits(multiplies=False, rounding=_affine))
def _normalize(module: nn.Module, input_shape: tuple[int, ...]) -> Diagonal:
    assert isinstance(module, Normalize)
    if len(module.std) not in (1, *input_shape[:1]):
        raise ArchitectureError(f"{module} gets inputs of shape {input_shape}; it needs {len(module.std)} channels")
    return Diagonal((1 / require_floating("std", module.std).double()).reshape(-1, *[1] * (len(input_shape) - 1)))


@register_lipschitz_rule(Scale, traits=Traits(multiplies=False, scales=True, rounding="product"))
def _scale(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    assert isinstance(module, Scale)
    return LipschitzConstant(abs(module.factor), per_element=True)
