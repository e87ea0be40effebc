"""MinMax on any number of channels, to stand where another activation stood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.ops.minmax_op import minmax
from gloro_fast.rules.functions import register_lipschitz_function
from gloro_fast.rules.registry import LipschitzConstant, register_lipschitz_rule


class PairwiseMinMax(nn.Module):
    """MinMax; of an odd number of channels the last one goes through as it is. 1-Lipschitz in l2.

    Input and output are (B, C, ...), of the same dtype and memory format.

    Args:
        original: the activation that it stands for, kept for :func:`gloro_fast.revert`; no part of the
            ``state_dict``.
    """

    def __init__(self, original: nn.Module | None = None) -> None:
        super().__init__()
        # Not as a submodule: it is not called, and must not be listed.
        self.__dict__["original"] = original

    def forward(self, x: Tensor) -> Tensor:
        """Return the sorted pairs of ``x``."""
        if x.shape[1] % 2 == 0:
            return minmax(x)[0]
        return torch.cat([minmax(x[:, :-1])[0], x[:, -1:]], dim=1)


_LAYER = PairwiseMinMax()


def pairwise_minmax(x: Tensor) -> Tensor:
    """Return what :class:`PairwiseMinMax` gives, where an activation was called as a function."""
    return _LAYER.forward(x)


def pairwise_minmax_(x: Tensor) -> Tensor:
    """Write that over ``x``, where an activation was called in place."""
    return x.copy_(_LAYER.forward(x))


@register_lipschitz_rule(PairwiseMinMax)
def _pairwise_minmax(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    # It permutes its input.
    return LipschitzConstant(1.0)


@register_lipschitz_function(pairwise_minmax)
def _function(input_shape: tuple[int, ...]) -> nn.Module:
    return PairwiseMinMax()


@register_lipschitz_function(pairwise_minmax_)
def _function_in_place(input_shape: tuple[int, ...]) -> LipschitzConstant:
    return LipschitzConstant(1.0)
