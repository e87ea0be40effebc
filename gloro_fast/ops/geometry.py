"""The geometry of a linear layer: how its weight acts on one input, and how the transpose acts back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Geometry:
    """Shape and steps of a dense layer or a padded convolution, its weight and bias apart.

    Attributes:
        input_shape: (features,) of a dense layer, (C, *spatial) of a convolution, without a batch.
        stride: steps per spatial dimension; empty for a dense layer, as are the next two.
        padding: entries (before, after) per spatial dimension.
        dilation: distance of the taps per spatial dimension.
        groups: number of channel groups.
        padding_mode: what the padding holds: ``"zeros"``, or ``"circular"`` for the entries of the other end, of which
            there must be as many as are padded.
    """

    input_shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: Literal["zeros", "circular"] = "zeros"

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Found once, where a training step looks for what it knows of its layers."""
        # Of integers alone: pickled along, that of a string would be another process's.
        return hash((self.input_shape, self.stride, self.padding, self.dilation, self.groups))

    @property
    def is_dense(self) -> bool:
        """Whether this is a dense layer."""
        return not self.stride

    def output_sizes(self, taps: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial sizes of the output for a kernel of so many taps per spatial dimension."""
        return tuple(self.output_size(count, axis) for axis, count in enumerate(taps))

    def output_size(self, taps: int, axis: int) -> int:
        """Return the size of the output along one spatial dimension."""
        padded = self.input_shape[1 + axis] + sum(self.padding[axis])
        return (padded - self.dilation[axis] * (taps - 1) - 1) // self.stride[axis] + 1

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """Apply the layer without its bias.

        Args:
            weight: (out, in) or (out, in / groups, *kernel).
            x: (*input_shape), of the weight's dtype.

        Returns:
            (out,) or (out, *spatial).
        """
        if self.is_dense:
            return weight @ x
        return _CONV[len(self.stride)](
            self._padded(x)[None], weight, stride=self.stride, dilation=self.dilation, groups=self.groups
        )[0]

    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """Apply the transpose, so that <A x, y> = <x, A^T y> for every x.

        Args:
            weight: as for ``apply``.
            y: of the shape that ``apply`` returns.

        Returns:
            (*input_shape).
        """
        if self.is_dense:
            return weight.T @ y
        # A stride may leave input rows at the far end that no tap reaches; output_padding restores them.
        reached = [
            (out - 1) * step + gap * (taps - 1) + 1
            for out, step, gap, taps in zip(y.shape[1:], self.stride, self.dilation, weight.shape[2:], strict=True)
        ]
        padded = [
            size + before + after for size, (before, after) in zip(self.input_shape[1:], self.padding, strict=True)
        ]
        x = _CONV_TRANSPOSE[len(self.stride)](
            y[None], weight, stride=self.stride, dilation=self.dilation, groups=self.groups
        )[0]
        missing = [size - got for size, got in zip(padded, reached, strict=True)]
        return self._folded(F.pad(x, [amount for gap in reversed(missing) for amount in (0, gap)]))

    def _padded(self, x: Tensor) -> Tensor:
        """Pad one input."""
        # As F.pad wants it: last dimension first.
        amounts = [amount for pair in reversed(self.padding) for amount in pair]
        if self.padding_mode == "zeros":
            return F.pad(x, amounts)
        return F.pad(x[None], amounts, mode="circular")[0]

    def _folded(self, x: Tensor) -> Tensor:
        """Apply the transpose of the padding: drop what met zeros, add what met copies to their originals."""
        for dim, (size, (before, after)) in enumerate(zip(self.input_shape[1:], self.padding, strict=True), start=1):
            whole, x = x, x.narrow(dim, before, size)
            if self.padding_mode == "circular":
                x = x.clone()
                x.narrow(dim, size - before, before).add_(whole.narrow(dim, 0, before))
                x.narrow(dim, 0, after).add_(whole.narrow(dim, before + size, after))
        return x
