"""What a node of a graph computes: callables on tensors, made of plain data so that they copy and pickle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload


@dataclass(frozen=True)
class Slot:
    """Stands among arguments for the tensor, or number, of an input of a node.

    Attributes:
        place: which of the inputs.
    """

    place: int


@dataclass(frozen=True)
class Function:
    """A function of tensors, with :class:`Slot` in their places.

    Attributes:
        function: an operation of ATen, or a function of a user's.
        args, keywords: its arguments; slots may be in lists and tuples.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = (Slot(0),)
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *values: Any) -> Any:
        """Call it."""
        args = [_filled(argument, values) for argument in self.args]
        if not self.keywords:
            return self.function(*args)
        return self.function(*args, **{key: _filled(value, values) for key, value in self.keywords})

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle an operation of PyTorch by its name, which it cannot do itself."""
        function = self.function
        named = (str(function.name()),) if isinstance(function, OpOverload) else function  # type: ignore[no-untyped-call]
        return _made, (named, self.args, self.keywords)


def _made(named: Any, args: tuple[Any, ...], keywords: tuple[tuple[str, Any], ...]) -> Function:
    return Function(_operation(named[0]) if isinstance(named, tuple) else named, args, keywords)


def _operation(name: str) -> Any:
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


def _filled(argument: Any, values: tuple[Any, ...]) -> Any:
    if type(argument) is Slot:
        return values[argument.place]
    if type(argument) is list or type(argument) is tuple:
        return type(argument)(_filled(part, values) for part in argument)
    return argument


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
    """A tensor that a ``forward`` made of numbers, or found elsewhere than among the attributes of a module."""

    value: Tensor

    def __call__(self) -> Tensor:
        """Return it."""
        return self.value


@dataclass(frozen=True)
class Within:
    """An operation that a ``forward`` calls within context managers.

    Attributes:
        operation: the operation.
        no_grad: whether autograd is off there.
        autocasts: (device type, dtype, enabled) of each autocast, the outermost first.
    """

    operation: nn.Module | Function | Reshape | Attribute | Literal
    no_grad: bool
    autocasts: tuple[tuple[str, torch.dtype, bool], ...]

    def __call__(self, *values: Any) -> Any:
        """Call it within them."""
        with ExitStack() as stack:
            if self.no_grad:
                stack.enter_context(torch.no_grad())
            for device, dtype, enabled in self.autocasts:
                stack.enter_context(torch.autocast(device, dtype, enabled))
            return self.operation(*values)


Operation = nn.Module | Function | Reshape | Attribute | Literal | Within


def is_order_preserving(operation: Operation) -> bool:
    """Return whether the elements of the output are those of the input in the same order."""
    if isinstance(operation, Reshape):
        return True
    if isinstance(operation, Function):
        return operation.function in _COPIES
    return isinstance(operation, nn.Module) and type(operation) in (nn.Flatten, nn.Unflatten, nn.Identity)


_COPIES = (torch.ops.aten.clone.default, torch.ops.aten.contiguous.default)
