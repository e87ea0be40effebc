"""The linear residual convolution of LiResNet (Hu et al. 2023, Section 3)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.nn.conv import Conv2d
from gloro_fast.rules.linear import LINEAR, convolution_by
from gloro_fast.rules.registry import LinearMap, register_lipschitz_rule


class ResidualConv2d(Conv2d):
    """Give x + conv(x) as one convolution: its kernel has the identity added, so that its norm is known as such.

    A residual branch without an activation is a linear map; bounding it by 1 + ||conv|| would be loose. Input and
    output are (B, C, H, W) of the same shape; ``weight`` and ``bias`` are those of the branch.

    Args:
        channels: C.
        kernel_size: odd, so that the kernel has a middle; padded with zeros to keep the size.
        bias: whether the branch adds one.

    Raises:
        ConfigError: the kernel size is even.
    """

    identity: Tensor

    def __init__(self, channels: int, kernel_size: int = 3, bias: bool = True) -> None:
        if kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size is {kernel_size}; a residual convolution needs an odd one")
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.register_buffer("identity", nn.init.dirac_(torch.empty_like(self.weight)), persistent=False)

    def merged_weight(self) -> Tensor:
        """Return the kernel that is applied: the branch's, with one added from each channel to itself."""
        return self.weight + self.identity

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self._conv_forward(x, self.merged_weight(), bias)
        return result


@register_lipschitz_rule(ResidualConv2d, traits=dataclasses.replace(LINEAR, without_bias=Conv2d.without_bias))
def _residual_convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    assert isinstance(module, ResidualConv2d)
    # It pads as its settings say, whatever its ``same``.
    return convolution_by(module, module.merged_weight(), input_shape)
