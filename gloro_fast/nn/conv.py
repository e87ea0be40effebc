"""A 2-D convolution with TensorFlow's SAME padding, also for strides and even kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.linear import LINEAR, convolution_by
from gloro_fast.rules.registry import LinearMap, register_lipschitz_rule, require_spatial
from gloro_fast.rules.settings import each


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` whose ``padding="same"`` also takes a stride, as the paper's nets are built.

    The output has ceil(n / stride) rows for an input of n rows; where the zeros needed for that are odd in
    number, the extra one goes to the end, as in TensorFlow. Arguments are those of ``torch.nn.Conv2d``.

    Raises:
        ArchitectureError: ``padding="same"`` with a padding mode other than zeros and a stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
    ) -> None:
        self.same = padding == "same"
        if self.same and padding_mode != "zeros":
            raise ArchitectureError(f"padding='same' pads with zeros; padding_mode is {padding_mode!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if self.same else padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )

    def same_padding(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the zeros (before, after) of rows and of columns for an input of those sizes and the kernel's."""
        # Sizes that a compiler keeps open are no keys.
        padding = _same_padding.__wrapped__ if torch.compiler.is_compiling() else _same_padding
        return padding(tuple(sizes), tuple(kernel), each(self.stride, 2), each(self.dilation, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (B, C, H, W)."""
        return self._convolve(x, self.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """Convolve ``x`` and leave the bias to whoever reads the result next."""
        return self._convolve(x, None)

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = self.weight
        if not self.same:
            result: Tensor = self._conv_forward(x, weight, bias)
            return result
        (top, bottom), (left, right) = self.same_padding(x.shape[-2:], weight.shape[2:])
        if top == bottom and left == right:
            # Symmetric, as in all of the paper's nets at their sizes: no padded copy of the input.
            padding = (top, left)
        else:
            x = F.pad(x, (left, right, top, bottom))
            padding = (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Show the arguments as ``torch.nn.Conv2d`` does."""
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{text}, padding='same'" if self.same else text


@lru_cache(maxsize=256)
def _same_padding(
    sizes: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    before_after = []
    for size, taps, step, gap in zip(sizes, kernel, strides, dilations, strict=True):
        out = -(-size // step)
        total = max(0, (out - 1) * step + gap * (taps - 1) + 1 - size)
        before_after.append((total // 2, total - total // 2))
    return before_after[0], before_after[1]


@register_lipschitz_rule(Conv2d, traits=dataclasses.replace(LINEAR, without_bias=Conv2d.without_bias))
def _convolution(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    assert isinstance(module, Conv2d)
    if not module.same:
        return convolution_by(module, module.weight, input_shape)
    require_spatial(module, input_shape, 2)
    return convolution_by(
        module, module.weight, input_shape, module.same_padding(input_shape[1:], module.weight.shape[2:])
    )
