"""A call in a captured graph with all that is known of it but the values of tensors: what rules of operations get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from gloro_fast.errors import ArchitectureError, UnknownLayerError
from gloro_fast.graph.batch import is_batch_size, shape_of_images
from gloro_fast.graph.node import Joining, Mapping, Node
from gloro_fast.graph.operations import Function, Operation

_PRODUCTS = "that multiplies its inputs by each other and has no Lipschitz constant; replace it by a layer with a rule"
_STATISTICS = "whose slope grows without limit as its input becomes constant; replace it by BatchNorm, or by nothing"
_WRITES = "that writes into a tensor; compute a new one with torch.cat, or register a rule for it"
_REMEDIES = {
    **dict.fromkeys(("copy", "fill", "index_put", "index_copy", "masked_fill", "scatter"), _WRITES),
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum", "baddbmm", "scaled_dot_product_attention"), _PRODUCTS),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm"), _STATISTICS),
}


@dataclass(frozen=True)
class Operand:
    """A tensor, or a tuple of tensors, that a call reads.

    Attributes:
        index: its node.
        constant: whether it depends on parameters alone.
        value: it, without values.
    """

    index: int
    constant: bool
    value: Any

    @property
    def is_of_images(self) -> bool:
        """Whether it is a constant that has a row for each image, the same in all."""
        value = self.value
        return self.constant and isinstance(value, Tensor) and value.ndim > 0 and is_batch_size(value.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape without the batch; of a constant, the whole; () for a tuple."""
        if not isinstance(self.value, Tensor):
            return ()
        return tuple(self.value.shape) if self.constant else tuple(self.value.shape[1:])


@dataclass(frozen=True)
class Number:
    """A number that depends on how many images there are.

    Attributes:
        index: its node.
        value: it, a symbol.
    """

    index: int
    value: Any

    @property
    def is_batch_size(self) -> bool:
        """Whether it is the number of images itself."""
        return is_batch_size(self.value)


@dataclass(frozen=True)
class Call:
    """A call of an operation.

    Attributes:
        where: the name that the call has among the nodes, such as ``layer1.0.relu()``.
        operation: the operation of ATen.
        given: its arguments by the names of its schema, those left out by default: operands, numbers, lists of them.
        output: what it gives, without values.
        training: whether the module is captured as it is in training.
        inputs: the nodes that it reads.
        function: what calls it on their values.
    """

    where: str
    operation: Any
    given: dict[str, Any]
    output: Any
    training: bool
    inputs: tuple[int, ...]
    function: Function

    @property
    def packet(self) -> str:
        """The name of the operation, the same in place or not."""
        if not isinstance(self.operation, OpOverload):
            return str(self.operation.__name__)
        name: str = self.operation._schema.name.partition("::")[2]
        return name if name.startswith("_") else name.removesuffix("_")

    @property
    def input(self) -> Operand:
        """The tensor that it is a function of.

        Raises:
            UnknownLayerError: the first argument is none of the network's.
        """
        first = next(iter(self.given.values()), None)
        if not isinstance(first, Operand) or not isinstance(first.value, Tensor) or first.constant:
            raise self.unknown()
        return first

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its output without the batch; () for a tuple.

        Raises:
            ArchitectureError: it does not give as many images as it gets.
        """
        return shape_of_images(self.where, self.output) if isinstance(self.output, Tensor) else ()

    def node(
        self, transfer: Mapping | Joining, operation: Operation | None = None, inputs: tuple[int, ...] | None = None
    ) -> Node:
        """Make the node of the call, executed as it was captured unless another ``operation`` is given."""
        shape = self.shape
        return Node(
            self.where,
            self.function if operation is None else operation,
            self.inputs if inputs is None else inputs,
            transfer,
            shape,
        )

    def of_one(self, transfer: Mapping, operation: Operation | None = None) -> Node:
        """Make the node of a call on one tensor, with numbers beside it that no image depends on.

        Raises:
            ArchitectureError: it depends on the number of images, or on other tensors.
        """
        if operation is None and self.inputs != (self.input.index,):
            raise self.mixes() if self._numbers() else self.unknown()
        return self.node(transfer, operation, (self.input.index,))

    def dims(self, given: Any) -> list[int]:
        """Return one or several dimensions counted from the front.

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
        """Make the error for an operation without a rule, with the remedy."""
        if self.packet in _REMEDIES:
            return UnknownLayerError(f"{self.where} is a function {_REMEDIES[self.packet]}")
        return UnknownLayerError(
            f"{self.where} is a function whose Lipschitz constant is unknown with these arguments; use a layer with a "
            "rule, or register one with @gloro_fast.nn.register_lipschitz_function"
        )

    @property
    def is_explained(self) -> bool:
        """Whether there is a remedy for the operation as a whole."""
        return self.packet in _REMEDIES

    def _numbers(self) -> bool:
        return any(isinstance(value, Number) for value in flat(list(self.given.values())))


def flat(value: Any) -> list[Any]:
    """List what is in lists and tuples."""
    return [part for item in value for part in flat(item)] if isinstance(value, list | tuple) else [value]
