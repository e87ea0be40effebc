"""The MinMax activation (Anil et al. 2019; Leino et al. 2021, Section 5)."""

from __future__ import annotations

from torch import Tensor, nn

from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.ops.minmax_op import minmax
from gloro_fast.rules.registry import LipschitzConstant, register_lipschitz_rule
from gloro_fast.rules.traits import SELECTION


class MinMax(nn.Module):
    """Sort adjacent channel pairs (2c, 2c + 1) into (min, max): 1-Lipschitz in l2 and gradient preserving.

    Input and output are (B, C, ...) with an even number C of channels, of the same dtype and memory format.

    Args:
        inplace: write over the input, under the rules of ``nn.ReLU(inplace=True)``.

    Raises:
        ArchitectureError: C is odd; the message names the shape.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return the sorted pairs of ``x``."""
        return minmax_(x) if self.inplace else minmax(x)[0]

    def extra_repr(self) -> str:
        """Show what differs from the default."""
        return "inplace=True" if self.inplace else ""


@register_lipschitz_rule(MinMax, traits=SELECTION)
def _minmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    # It permutes, differently from cell to cell.
    return LipschitzConstant(1.0)
