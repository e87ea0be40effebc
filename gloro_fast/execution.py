"""How the layers of a plan are executed: one after the other, a bias added by the MinMax that follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.nn.rules import known_type
from gloro_fast.ops.minmax_inplace import minmax_

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BiasedMinMax:
    """A convolution or dense layer and the MinMax after it, the bias added in MinMax's pass over the memory.

    The bias gradient then comes from MinMax's backward pass as well. In real arithmetic it is the same function;
    parameters stay where they are.
    """

    linear: nn.Conv2d | nn.Linear

    def __call__(self, x: Tensor) -> Tensor:
        """Apply both layers to a batch."""
        linear = self.linear
        if isinstance(linear, nn.Linear):
            y = F.linear(x, linear.weight)
        elif isinstance(linear, Conv2d):
            y = linear.without_bias(x)
        else:
            y = linear._conv_forward(x, linear.weight, None)
        # Nobody else has y, and neither a convolution nor a product needs its own result for its gradient.
        return minmax_(y, linear.bias)


def fuse(modules: Sequence[nn.Module], output_ranks: Sequence[int]) -> tuple[Step, ...]:
    """Give the steps that execute ``modules`` in order.

    Args:
        modules: the layers, of known types.
        output_ranks: dimensions of each layer's output, batch included.
    """
    steps: list[Step] = []
    index = 0
    while index < len(modules):
        module, after = modules[index], modules[index + 1 : index + 2]
        if after and type(after[0]) is MinMax and _has_channel_bias(module, output_ranks[index]):
            assert isinstance(module, nn.Conv2d | nn.Linear)
            steps.append(BiasedMinMax(module))
            index += 2
        else:
            steps.append(module)
            index += 1
    return tuple(steps)


def _has_channel_bias(module: nn.Module, output_rank: int) -> bool:
    """Whether ``module`` adds a bias along dimension 1, where MinMax finds its channels.

    Exactly these types: a subclass with a rule of its own may do more than convolve.
    """
    kind = known_type(module)
    if kind in (nn.Conv2d, Conv2d, ResidualConv2d):
        return module.bias is not None
    return kind is nn.Linear and module.bias is not None and output_rank == 2
