"""The values that a tensor has now, which a compiled graph keeps for its backward pass."""

from __future__ import annotations

import torch
from torch import Tensor


def kept(x: Tensor) -> Tensor:
    """Return ``x``, to be read before the same graph changes it; a copy where a compiler makes the graph.

    AOTAutograd keeps the inputs of a graph for its backward pass, buffers among them, and computes again from these
    what is cheap. It does not notice that the forward pass has changed one in between, as a BatchNorm its running
    variance: a gradient that eager mode would refuse to compute comes out wrong, by some percent. An op that it does
    not know is never computed again.

    Args:
        x: any tensor without a gradient.
    """
    if not torch.compiler.is_compiling():
        return x
    copy: Tensor = _copy(x)
    return copy


@torch.library.custom_op("gloro_fast::kept", mutates_args=())
def _copy(x: Tensor) -> Tensor:
    return x.clone()


@_copy.register_fake
def _fake(x: Tensor) -> Tensor:
    return torch.empty_like(x)
