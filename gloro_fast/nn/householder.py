"""The Householder activation (Singla, Singla, Feizi 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.rules.registry import LipschitzConstant, register_lipschitz_rule
from gloro_fast.rules.traits import ELEMENTWISE


class Householder(nn.Module):
    """Reflect a pair of channels where it lies on one side of a line, one learned angle a pair: 1-Lipschitz in l2.

    With v = (-sin(theta / 2), cos(theta / 2)) a pair z stays where v . z > 0 and becomes z - 2 v (v . z)
    elsewhere; both sides agree on the line, and each is an isometry. Pairs are adjacent channels (2c, 2c + 1)
    along dimension 1, and theta = pi / 2, the start, is ``MinMax``. Input and output are (B, C, ...) of the same
    dtype; a NaN makes its pair NaN.

    Args:
        channels: C, even.

    Raises:
        ConfigError: the channels are no even whole number > 0.
        ArchitectureError: the input has another number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if not isinstance(channels, int) or channels < 2 or channels % 2:
            raise ConfigError(f"channels is {channels!r}; give an even number of at least 2")
        self.channels = channels
        self.theta = nn.Parameter(torch.full((channels // 2,), math.pi / 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reflected pairs of ``x``."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ArchitectureError(f"Householder is for {self.channels} channels, but gets shape {tuple(x.shape)}")
        pairs = x.reshape(len(x), x.shape[1] // 2, 2, *x.shape[2:])
        first, second = pairs.unbind(dim=2)
        theta = self.theta.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2))
        keep = torch.cos(theta / 2) * second - torch.sin(theta / 2) * first > 0
        cos, sin = torch.cos(theta), torch.sin(theta)
        # A NaN is on no side: both results of the reflection are NaN.
        reflected = torch.stack([cos * first + sin * second, sin * first - cos * second], dim=2)
        return torch.where(keep.unsqueeze(2), pairs, reflected).reshape(x.shape)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return f"{self.channels}"


@register_lipschitz_rule(Householder, traits=ELEMENTWISE)
def _householder(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    # It reflects.
    return LipschitzConstant(1.0)
