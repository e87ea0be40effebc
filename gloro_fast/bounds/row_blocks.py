"""A convolution's Gram matrix T T^T in blocks, one for each pair of rows of pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gloro_fast.bounds.axis import Axis
from gloro_fast.rounding import gamma


@dataclass(frozen=True)
class RowBlocks:
    """T T^T of G groups, its rows and columns ordered by (y, x, channel): block banded.

    Attributes:
        kernel: (G, out, in, taps of y, taps of x) float64.
        y, x: how the taps lie.
    """

    kernel: Tensor
    y: Axis
    x: Axis
    _blocks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size(self) -> int:
        """The rows of a block."""
        return self.x.outputs * self.kernel.shape[1]

    @property
    def band(self) -> int:
        """How many blocks below the diagonal are not zero."""
        return self.y.reach

    @property
    def terms(self) -> int:
        """Of how many products an entry is the sum, at most."""
        _, _, *inputs_and_taps = self.kernel.shape
        return int(torch.Size(inputs_and_taps).numel())

    def absolute_norm(self) -> float:
        """Return a float >= || |T| |T|^T ||, for the entries' absolute values: the largest row sum times column sum."""
        magnitude = self.kernel.abs()
        by_output = float(magnitude.sum(dim=(2, 3, 4)).max())
        by_input = float(magnitude.sum(dim=(1, 3, 4)).max())
        return by_output * by_input * (1 + 3 * gamma(max(self.terms, magnitude[0, :, 0].numel()) + 8))

    def block(self, y: int, below: int) -> Tensor:
        """Return the block of row ``y + below``, column ``y``: (G, size, size), each entry within gamma of ``terms``.

        With u' the tap of row y + below and u = u' + stride * below that of row y, both read the same input row; the
        sum over those that lie within the image is the same wherever the same taps do.
        """
        start = self.y.stride * (y + below) + self.y.offset
        shift = self.y.stride * below
        first = max(0, -start)
        last = min(self.y.taps - 1 - shift, self.y.inputs - 1 - start)
        key = (below, first, max(last, first - 1))
        if key not in self._blocks:
            self._blocks[key] = self._row_product(range(first, last + 1), shift)
        return self._blocks[key]

    def _row_product(self, taps: range, shift: int) -> Tensor:
        """Sum R_u R_(u+shift)^T over the taps u, where R_u is the operator of kernel row u on one row of pixels."""
        groups, outputs, _, _, width = self.kernel.shape
        pixels = self.x.outputs
        result = self.kernel.new_zeros(groups, pixels, outputs, pixels, outputs)
        if len(taps):
            upper = self.kernel[..., taps.start : taps.stop, :]
            lower = self.kernel[..., taps.start + shift : taps.stop + shift, :]
            # (v, out) x (in, u), one product for all pairs of columns v of the kernel.
            left = upper.permute(0, 4, 1, 2, 3).reshape(groups, width * outputs, -1)
            right = lower.permute(0, 4, 1, 2, 3).reshape(groups, width * outputs, -1)
            products = (left @ right.mT).reshape(groups, width, outputs, width, outputs)
            for apart in range(-self.x.reach, self.x.reach + 1):
                for v in range(width):
                    other = v + self.x.stride * apart
                    if 0 <= other < width:
                        self._spread(result, products[:, v, :, other], v, apart)
        return result.reshape(groups, self.size, self.size)

    def _spread(self, result: Tensor, product: Tensor, tap: int, apart: int) -> None:
        """Add ``product`` for every two pixels ``apart`` of which the first reads its input by ``tap``."""
        stride, start = self.x.stride, tap + self.x.offset
        first = max(0, apart, -(start // stride))
        last = min(self.x.outputs - 1, self.x.outputs - 1 + apart, (self.x.inputs - 1 - start) // stride)
        if first <= last:
            pixel = torch.arange(first, last + 1, device=result.device)
            result[:, pixel, :, pixel - apart] += product
