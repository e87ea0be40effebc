"""The GroupSort activation (Anil, Lucas, Grosse 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.rules.registry import LipschitzConstant, register_lipschitz_rule
from gloro_fast.rules.traits import SELECTION


class GroupSort(nn.Module):
    """Sort each group of ``group_size`` adjacent channels: 1-Lipschitz in l2 and gradient preserving.

    ``GroupSort(2)`` is ``MinMax``, which is faster. Input and output are (B, C, ...) of the same dtype. A NaN
    makes its whole group NaN.

    Args:
        group_size: channels a group, >= 2.

    Raises:
        ConfigError: the group size is no whole number >= 2.
        ArchitectureError: C is no multiple of it; the message names the shape.
    """

    def __init__(self, group_size: int) -> None:
        super().__init__()
        if not isinstance(group_size, int) or group_size < 2:
            raise ConfigError(f"group_size is {group_size!r}; give a whole number of at least 2")
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the sorted groups of ``x``."""
        if x.ndim < 2 or x.shape[1] % self.group_size:
            channels = x.shape[1] if x.ndim > 1 else 0
            raise ArchitectureError(
                f"GroupSort sorts groups of {self.group_size} channels, but the input of shape {tuple(x.shape)} has "
                f"{channels}; use a multiple of {self.group_size}"
            )
        groups = x.reshape(len(x), x.shape[1] // self.group_size, self.group_size, *x.shape[2:])
        # Sorting alone moves a NaN to the end of its group, where it may meet a weight of zero.
        nan = groups.isnan().any(dim=2, keepdim=True)
        return groups.sort(dim=2).values.masked_fill(nan, torch.nan).reshape(x.shape)

    def extra_repr(self) -> str:
        """Show the group size."""
        return f"group_size={self.group_size}"


@register_lipschitz_rule(GroupSort, traits=SELECTION)
def _group_sort(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    # It permutes, differently from cell to cell.
    return LipschitzConstant(1.0)
