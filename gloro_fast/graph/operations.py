"""What a node of a graph computes: callables on tensors, made of plain data so that they copy and pickle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Function:
    """A function of tensors: ``function(*before, *tensors, *after, **keywords)``."""

    function: Callable[..., Any]
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *tensors: Tensor) -> Any:
        """Call it."""
        return self.function(*self.before, *tensors, *self.after, **dict(self.keywords))


@dataclass(frozen=True)
class OfList:
    """A function of a list of tensors along a dimension, such as ``torch.cat``."""

    function: Callable[[tuple[Tensor, ...], int], Tensor]
    dim: int

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Call it."""
        return self.function(tensors, self.dim)


@dataclass(frozen=True)
class Reshape:
    """Give each image another shape, its elements in the same order."""

    shape: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Reshape a batch, of any size."""
        return x.reshape(x.shape[0], *self.shape)


@dataclass(frozen=True)
class Attribute:
    """A parameter, buffer or tensor of a module as it is now."""

    owner: nn.Module
    name: str

    def __call__(self) -> Tensor:
        """Read it."""
        value: Tensor = getattr(self.owner, self.name)
        return value


@dataclass(frozen=True, eq=False)
class Literal:
    """A tensor that a ``forward`` made of numbers."""

    value: Tensor

    def __call__(self) -> Tensor:
        """Give it."""
        return self.value


Operation = nn.Module | Function | OfList | Reshape | Attribute | Literal


def is_order_preserving(operation: Operation) -> bool:
    """Whether the elements of the output are those of the input in the same order."""
    if isinstance(operation, Reshape):
        return True
    if isinstance(operation, Function):
        return operation.function in (torch.clone, torch.Tensor.contiguous)
    return isinstance(operation, nn.Module) and type(operation) in (nn.Flatten, nn.Unflatten, nn.Identity)
