"""Circular convolutions that are made orthogonal frequency by frequency."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.nn.orthogonal_maps import block_reflector, cayley
from gloro_fast.nn.weights_once import made_once
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import LinearMap, register_lipschitz_rule, require_spatial
from gloro_fast.rules.traits import Traits


class _FourierConv2d(nn.Module):
    """A circular convolution that multiplies each frequency of its input by a matrix of its own.

    The kernel that this amounts to is as large as the image, which is why it is never made.
    """

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, bias: bool) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size, "stride": stride}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ConfigError(f"{name} is {size!r}; give a whole number of at least 1")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

    def orthogonal(self, spectrum: Tensor) -> Tensor:
        """Return what frequencies are multiplied by, (..., out, in stride^2), of those of the weight (..., m, n)."""
        raise NotImplementedError

    def frequency_blocks(self, height: int, width: int) -> Tensor:
        """Return the matrices of the frequencies of an image of that size, after the stride, as real ones.

        Returns:
            (height (width // 2 + 1), 2 out, 2 in stride^2) of the weight's dtype, at least float32: what real and
            imaginary parts, below each other, are multiplied by. What is left out are complex conjugates.

        Raises:
            ArchitectureError: the kernel is larger than the image.
        """
        if self.kernel_size > min(height, width):
            raise ArchitectureError(
                f"{self} gets {height} x {width} pixels, after its stride; it needs {self.kernel_size} either way"
            )
        return made_once(self, (height, width), lambda: self._blocks(height, width))

    def _blocks(self, height: int, width: int) -> Tensor:
        around = F.pad(self.weight.double(), (0, width - self.kernel_size, 0, height - self.kernel_size))
        middle = -(self.kernel_size // 2)
        spectrum = torch.fft.rfft2(around.roll((middle, middle), (2, 3))).permute(2, 3, 0, 1).flatten(0, 1)
        matrices = self.orthogonal(spectrum)
        real, imaginary = matrices.real, matrices.imag
        wide = torch.cat([torch.cat([real, -imaginary], dim=2), torch.cat([imaginary, real], dim=2)], dim=1)
        blocks: Tensor = wide.to(torch.promote_types(self.weight.dtype, torch.float32))
        return blocks

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (B, C, H, W), whose sides are multiples of the stride."""
        images = F.pixel_unshuffle(x, self.stride)
        batch, channels, height, width = images.shape
        blocks = self.frequency_blocks(height, width)
        spectrum = torch.view_as_real(torch.fft.rfft2(images.to(blocks.dtype)))
        # (frequencies, real parts and then imaginary ones of the channels, images)
        columns = spectrum.permute(2, 3, 4, 1, 0).reshape(len(blocks), 2 * channels, batch)
        products = torch.bmm(blocks, columns).to(blocks.dtype)
        products = products.reshape(height, width // 2 + 1, 2, self.out_channels, batch).permute(4, 3, 0, 1, 2)
        y: Tensor = torch.fft.irfft2(torch.view_as_complex(products.contiguous()), s=(height, width)).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Show the arguments."""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_channels}, {self.out_channels}, {self.kernel_size}, stride={self.stride}{bias}"


class CayleyConv2d(_FourierConv2d):
    """A circular convolution that is the Cayley transform of one with a small kernel, frequency by frequency.

    Trockman and Kolter, "Orthogonalizing convolutional layers with the Cayley transform", ICLR 2021. It preserves norms
    where it has no fewer channels than its input, and those of gradients where it has no more: but for rounding, which
    bounds find, as they read the matrices of all frequencies. A stride s makes channels of the s x s pixels beforehand.
    The factor that the paper learns for the norm of the kernel is left out.

    Args:
        in_channels: C of the input (B, C, H, W); H and W are multiples of the stride.
        out_channels: of the output (B, out_channels, H / stride, W / stride).
        kernel_size: k of the parameter ``weight`` (out_channels, C stride^2, k, k); at most H / stride and W / stride.
        stride: of both directions.
        bias: whether to add one.

    Raises:
        ConfigError: one of them is no whole number of at least 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels * stride**2, kernel_size, kernel_size))
        nn.init.xavier_normal_(self.weight)

    def orthogonal(self, spectrum: Tensor) -> Tensor:
        """Return the Cayley transforms of matrices (..., out, in stride^2)."""
        return cayley(spectrum)


class BROConv2d(_FourierConv2d):
    """A circular convolution that reflects a subspace of the channels, frequency by frequency: block reflector (BRO).

    Lai, Huang, Kung, Chen, "Enhancing certified robustness via block reflector orthogonal layers and logit annealing
    loss", ICML 2025. Each frequency is multiplied by I - 2 V (V^H V)^-1 V^H, of which the first rows or columns are
    taken where the numbers of channels differ. It preserves norms where it has no fewer channels than its input, and
    those of gradients where it has no more: but for rounding, which bounds find, as they read the matrices of all
    frequencies. A stride s makes channels of the s x s pixels beforehand. The authors' code pads with zeros, cuts them
    off afterwards, and adds a little to the diagonal of V^H V.

    Args:
        in_channels: C of the input (B, C, H, W); H and W are multiples of the stride.
        out_channels: of the output (B, out_channels, H / stride, W / stride).
        kernel_size: k of the parameter ``weight`` (c, rank, k, k), c = max(out_channels, C stride^2), which V is the
            Fourier transform of; at most H / stride and W / stride.
        stride: of both directions.
        bias: whether to add one.
        rank: dimensions of the subspace, 1 to c; c // 2 by default, which can turn most.

    Raises:
        ConfigError: one of them is no whole number of at least 1, or the rank is above c.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = True,
        rank: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias)
        channels = max(out_channels, in_channels * stride**2)
        rank = max(1, channels // 2) if rank is None else rank
        if not isinstance(rank, int) or not 1 <= rank <= channels:
            raise ConfigError(f"rank is {rank!r}; give a whole number from 1 to {channels}")
        self.rank = rank
        self.weight = nn.Parameter(torch.empty(channels, rank, kernel_size, kernel_size))
        nn.init.xavier_normal_(self.weight)

    def orthogonal(self, spectrum: Tensor) -> Tensor:
        """Return the reflections of the spans of matrices (..., c, rank), cut to (..., out, in stride^2)."""
        return block_reflector(spectrum)[..., : self.out_channels, : self.in_channels * self.stride**2]


# It reads its weight in float64, and multiplies float32 by bmm alone.
@register_lipschitz_rule(CayleyConv2d, BROConv2d, traits=Traits(multiplies=True, spares_output=True))
def _by_frequencies(module: nn.Module, input_shape: tuple[int, ...]) -> LinearMap:
    """Return the matrices of all frequencies as groups of a 1 x 1 convolution.

    The Fourier transform is unitary but for a factor that its inverse takes back, so that the norm of the layer is the
    largest of theirs. Where frequencies f and -f are both among them, the inverse takes the mean of one matrix and the
    conjugate of the other, or one of the two, whose norm is no larger.
    """
    assert isinstance(module, _FourierConv2d)
    require_spatial(module, input_shape, 2)
    channels, *sizes = input_shape
    if channels != module.in_channels or any(size % module.stride for size in sizes):
        raise ArchitectureError(
            f"{module} gets inputs of shape {input_shape}; it needs {module.in_channels} channels and sides that are "
            f"multiples of {module.stride}"
        )
    blocks = module.frequency_blocks(*(size // module.stride for size in sizes))
    frequencies, rows, columns = blocks.shape
    nothing = ((0, 0), (0, 0))
    geometry = Geometry((frequencies * columns, 1, 1), (1, 1), nothing, (1, 1), frequencies)
    return LinearMap(blocks.reshape(frequencies * rows, columns, 1, 1), geometry)
