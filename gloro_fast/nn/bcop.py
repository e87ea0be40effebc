"""Block convolution orthogonal parametrization (Li et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_fast.errors import ConfigError
from gloro_fast.nn.orthogonal_maps import cholesky_orthogonal


class BCOP(nn.Conv2d):
    """A convolution whose kernel is a block convolution of an orthogonal matrix and projections.

    Li, Haque, Anil, Lucas, Grosse, Jacobsen, "Preventing gradient attenuation in Lipschitz constrained convolutional
    networks", NeurIPS 2019. With circular padding the layer preserves norms where no channels are lost, and
    has norm 1 in any case; with zeros around it is a part of such a layer, and its norm is at most 1: both but for
    rounding, which bounds find, as they read the kernel. A stride s is that layer on the image whose s x s pixels are
    channels: an ordinary convolution by ``s * kernel_size`` pixels with stride s. The projections and the matrix are
    made by Cholesky factors, where the paper iterates by Bjorck and Bowie. The parameter
    ``parametrizations.weight.original`` holds their 2 (kernel_size - 1) + 1 matrices.

    Args:
        in_channels: C of the input (B, C, H, W).
        out_channels: of the output (B, out_channels, H / stride, W / stride).
        kernel_size: odd, in steps of the stride.
        stride: of both directions.
        bias: whether to add one.
        padding_mode: ``"circular"`` or ``"zeros"``; as much as keeps the size.

    Raises:
        ConfigError: the kernel size is even, or the padding mode is another.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        padding_mode: Literal["circular", "zeros"] = "circular",
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size is {kernel_size}; BCOP needs an odd one")
        if padding_mode not in ("circular", "zeros"):
            raise ConfigError(f"padding_mode is {padding_mode!r}; choose 'circular' or 'zeros'")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size * stride,
            stride,
            padding=kernel_size // 2 * stride,
            bias=bias,
            padding_mode=padding_mode,
        )
        channels = max(in_channels * stride**2, out_channels)
        self.weight = nn.Parameter(torch.empty(2 * kernel_size - 1, channels, channels))
        for matrix in self.weight:
            nn.init.orthogonal_(matrix)
        kernel = _BlockConvolution(in_channels, out_channels, stride)
        # The kernel has another shape than what it is made of.
        register_parametrization(self, "weight", kernel, unsafe=True)


class _BlockConvolution(nn.Module):
    """Parametrization of a kernel (out, in, k s, k s) by 2 k - 1 square matrices, of which one is made orthogonal."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def forward(self, matrices: Tensor) -> Tensor:
        channels = matrices.shape[-1]
        inputs = self.in_channels * self.stride**2
        # Rows or columns of an orthogonal matrix are left out, after which the block convolution keeps norms.
        matrix = cholesky_orthogonal(matrices[0])
        rows = cholesky_orthogonal(matrices[1:, : channels // 2])
        # Along columns, and along rows, of the kernel: each pair of projections makes it wider by one.
        kernel = matrix[:, :inputs, None, None]
        for place, projection in enumerate(rows.mT @ rows):
            kernel = _widened(kernel, projection, axis=2 + place % 2)
        kernel = kernel[: self.out_channels]
        return F.pixel_shuffle(kernel, self.stride).to(matrices.dtype)


def _widened(kernel: Tensor, projection: Tensor, axis: int) -> Tensor:
    """Return the kernel of the layer that is followed by the projection P, and by I - P one pixel on, along an axis."""
    here = torch.einsum("oc,cihw->oihw", projection, kernel)
    ahead = kernel - here
    one = [0, 0, 1, 0] if axis == 2 else [1, 0, 0, 0]
    other = [0, 0, 0, 1] if axis == 2 else [0, 1, 0, 0]
    return F.pad(here, other) + F.pad(ahead, one)
