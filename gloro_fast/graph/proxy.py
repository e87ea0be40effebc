"""What stands for a tensor while a ``forward`` is traced."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from gloro_fast.errors import ArchitectureError

_AUGMENTED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor")
# Attributes by which a tensor gets other values.
_VALUES = ("data", "real", "imag")


class Proxy(fx.Proxy):
    """``torch.fx.Proxy``, but that ``x += y`` writes over ``x``, as it does with a tensor, so that aliases see it.

    Numbers such as ``x.shape[1]`` are followed alike: of them ``operator.iadd`` makes a new one.
    """

    # NumPy's numbers leave arithmetic to it, as they do with a tensor.
    __array_ufunc__ = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VALUES:
            raise ArchitectureError(f"the forward sets the .{name} of a tensor, unseen by a graph; compute a new one")
        super().__setattr__(name, value)


def _augmented(function: Callable[[Any, Any], Any]) -> Callable[[Proxy, Any], fx.Proxy]:
    def apply(self: Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return apply


for _name in _AUGMENTED:
    setattr(Proxy, f"__i{_name}__", _augmented(getattr(operator, f"i{_name}")))
