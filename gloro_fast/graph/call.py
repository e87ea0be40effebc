"""A call in a traced graph with everything known of it but the tensors' values: what rules of functions are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gloro_fast.errors import ArchitectureError, UnknownLayerError

BATCHES = (2, 3)
"""The numbers of images that a graph is tried with: what differs between the two depends on the batch."""


_PRODUCTS = "that multiplies its inputs by each other and has no Lipschitz constant; replace it by a layer with a rule"
_STATISTICS = "whose slope grows without limit as its input becomes constant; replace it by BatchNorm, or by nothing"
_INDICES = "that gives the place as well, or one number for all images; call amax(dim), or maximum(a, b) of two tensors"
_REMEDIES = {
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum", "baddbmm", "scaled_dot_product_attention"), _PRODUCTS),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"), _STATISTICS),
    **dict.fromkeys(("max", "min"), _INDICES),
    "batch_norm": "that its module has a rule for; call nn.BatchNorm2d",
}


class BatchSize:
    """Stands for the number of images of a batch among the arguments of a call."""

    def __repr__(self) -> str:
        return "batch"


BATCH = BatchSize()


@dataclass(frozen=True)
class Operand:
    """A tensor, or a tuple of tensors, that a call reads.

    Attributes:
        index: its node.
        constant: whether it depends on parameters alone.
        shape: its shape without the batch; of a constant, the whole; () for a tuple.
        value: it, for a batch of zeros.
    """

    index: int
    constant: bool
    shape: tuple[int, ...]
    value: Any


@dataclass(frozen=True)
class Call:
    """A call of a function.

    Attributes:
        where: the name that the call has among the nodes, such as ``layer1.0.relu()``.
        function: the function, or the name of a method of tensors.
        args: its arguments: operands, numbers, ``BATCH``, and tuples, lists and slices of them.
        keywords: likewise.
        output: what it gave for a batch of zeros.
    """

    where: str
    function: Callable[..., Any] | str
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any

    @property
    def input(self) -> Operand:
        """The tensor that it is a function of.

        Raises:
            UnknownLayerError: the first argument is none.
        """
        first = self.args[0] if self.args else self.keywords.get("input")
        if not isinstance(first, Operand) or not isinstance(first.value, Tensor):
            raise self.unknown()
        return first

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its output without the batch."""
        return tuple(self.output.shape[1:])

    def read(self, *names: str, **defaults: Any) -> list[Any]:
        """Give the arguments after the first by name, in the order of ``names``, the ones left out by default.

        Raises:
            UnknownLayerError: there are others.
        """
        given = dict(zip(names, self.args[1:], strict=False))
        given.update({key: value for key, value in self.keywords.items() if key != "input"})
        if len(self.args) - 1 > len(names) or not given.keys() <= set(names):
            raise self.unknown()
        return [given.get(name, defaults.get(name)) for name in names]

    def dims(self, given: Any) -> list[int]:
        """Give one or several dimensions counted from the front.

        Raises:
            ArchitectureError: the batch dimension is among them.
        """
        rank = 1 + len(self.input.shape)
        listed = list(given) if isinstance(given, tuple | list) else [given]
        dims = [dim % rank for dim in listed if isinstance(dim, int)]
        if len(dims) != len(listed) or 0 in dims:
            raise self.mixes()
        return dims

    def mixes(self) -> ArchitectureError:
        """Make the error for a call through which one image reaches another's logits."""
        return ArchitectureError(f"{self.where} mixes the images of a batch; leave dimension 0 alone")

    def unknown(self) -> UnknownLayerError:
        """Make the error for a function without a rule, with the remedy."""
        short = self.function if isinstance(self.function, str) else getattr(self.function, "__name__", "")
        if short in _REMEDIES:
            return UnknownLayerError(f"{self.where} is a function {_REMEDIES[short]}")
        return UnknownLayerError(
            f"{self.where} is a function whose Lipschitz constant is unknown with these arguments; use a layer with a "
            "rule, or register one with @gloro_fast.nn.register_lipschitz_function"
        )
