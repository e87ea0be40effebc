"""A node of a graph, and how the Lipschitz constant of its output follows from those of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.operations import Attribute, Literal, Operation, Within
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.activations import check_dtype
from gloro_fast.rules.batch_norm import channel_scale
from gloro_fast.rules.real import require_floating, require_real
from gloro_fast.rules.registry import Diagonal, Knowledge, LinearMap, LipschitzConstant, lipschitz_rule


@dataclass(frozen=True)
class Layer:
    """A layer with a rule.

    Attributes:
        name: its qualified name in the module.
        module: the layer itself.
        input_shape: shape of its input without the batch.
        dtype: of its input.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    dtype: torch.dtype

    def rule(self) -> Knowledge:
        """Return what is known of the layer with its present weights and in its present mode.

        Raises:
            ArchitectureError: the rule does not hold for inputs of that dtype.
        """
        try:
            check_dtype(self.module, self.dtype)
        except ArchitectureError as error:
            raise ArchitectureError(f"{self.name or 'the module'}: {error}") from None
        return lipschitz_rule(self.name, self.module, self.input_shape)


@dataclass(frozen=True)
class Times:
    """The product with a number, but for what is added: with 1, the identity."""

    name: str
    number: float

    def rule(self) -> Knowledge:
        """Return its absolute value, rounded up where it is a quotient that was rounded."""
        return LipschitzConstant(abs(self.number))


@dataclass(frozen=True)
class Fixed:
    """A map of which the same is known always, such as a slice."""

    name: str
    known: LipschitzConstant

    def rule(self) -> Knowledge:
        """Return it."""
        return self.known


@dataclass(frozen=True)
class Diagonals:
    """A map that multiplies each element by a number of its own, of which the same is known always."""

    name: str
    known: Diagonal

    def rule(self) -> Knowledge:
        """Return it."""
        return self.known


@dataclass(frozen=True)
class Constants:
    """A value that depends on parameters alone: operations in order, each on the results of earlier ones."""

    operations: tuple[tuple[Operation, tuple[int, ...]], ...]

    def value(self) -> Tensor:
        """Compute the last one."""
        results: list[Tensor] = []
        for operation, inputs in self.operations:
            results.append(operation(*(results[index] for index in inputs)))
        return results[-1]


@dataclass(frozen=True)
class Scaled:
    """The product with a tensor of parameters, or the quotient by it, which has the input's number of dimensions."""

    name: str
    factor: Constants
    reciprocal: bool
    input_shape: tuple[int, ...]

    def rule(self) -> Knowledge:
        """Return the numbers that the elements are multiplied by."""
        scale = require_real(f"the tensor that {self.name} scales by", self.factor.value()).double()
        scale = scale.reshape([1] * (1 + len(self.input_shape) - scale.ndim) + list(scale.shape))[0]
        return Diagonal(scale.reciprocal() if self.reciprocal else scale)


@dataclass(frozen=True)
class Normalized:
    """``F.batch_norm`` with running statistics: gain / sqrt(variance + eps) a channel, in training as well.

    Attributes:
        name: for messages.
        gain, variance: a number a channel; no gain stands for 1.
        eps: as given.
        dimensions: of an image, its channels among them.
    """

    name: str
    gain: Constants | None
    variance: Constants
    eps: float
    dimensions: int

    def rule(self) -> Knowledge:
        """Return the numbers that the channels are multiplied by."""
        scale = channel_scale(self.variance.value(), self.eps, None if self.gain is None else self.gain.value())
        return Diagonal(scale.reshape(-1, *[1] * (self.dimensions - 1)))


@dataclass(frozen=True)
class Sloped:
    """``F.prelu`` with learned slopes."""

    name: str
    slopes: Constants

    def rule(self) -> Knowledge:
        """Return max(1, |a|) over all slopes a; training differentiates it."""
        return LipschitzConstant(self.slopes.value().abs().amax().clamp_min(1.0), per_element=True)


@dataclass(frozen=True)
class Weighted:
    """A dense layer or a convolution whose weight is a tensor of parameters; transposed, the adjoint of that."""

    name: str
    weight: Constants
    geometry: Geometry
    transposed: bool = False

    def rule(self) -> Knowledge:
        """Return the linear map with its present weight."""
        weight = require_floating(f"the weight of {self.name}", self.weight.value())
        return LinearMap(weight, self.geometry, self.transposed)


Mapping = Layer | Times | Fixed | Diagonals | Scaled | Normalized | Sloped | Weighted


@dataclass(frozen=True)
class Joining:
    """A sum of its inputs, each times a number, or tensors side by side.

    Attributes:
        name: for messages.
        factors: an upper bound on |number| for each input that is not constant, in order.
        stacked: whether they lie side by side (root of the sum of squares), else they are added.
        numbers: in a sum whose terms are of the shape of the result, the exact numbers; else empty.
    """

    name: str
    factors: tuple[float, ...]
    stacked: bool
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Attributes:
        name: of the layer, or of the function with the module that calls it.
        operation: what computes it from its inputs.
        inputs: the indices of the nodes that it reads; 0 is the input of the network.
        transfer: how the constant of its output follows from those of the inputs that are not constant; None for
            constants and for the input of the network.
        shape: of its output, without the batch; of constants, the whole; () for a tuple of tensors.
        overwrites: whether it writes over its first input.
        shares: whether its output may share memory with its first input.
        is_effect: whether it is executed for what it writes into a buffer, though nobody reads it.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...] = ()
    transfer: Mapping | Joining | None = None
    shape: tuple[int, ...] = ()
    overwrites: bool = False
    shares: bool = False
    is_effect: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether no image has a part in it: it depends on parameters alone, or is a number made of the batch size."""
        return self.transfer is None and self.operation is not None


def constants(nodes: Sequence[Node], index: int) -> Constants:
    """Collect the operations that node ``index``, a constant, is computed by."""
    needed = {index}
    for place in range(index, 0, -1):
        if place in needed:
            needed.update(nodes[place].inputs)
    order = sorted(needed)
    where = {place: number for number, place in enumerate(order)}
    operations = []
    for place in order:
        operation = nodes[place].operation
        if operation is None:
            raise ArchitectureError(
                f"{nodes[index].name} makes a weight of the number of images; make it of parameters alone"
            )
        operations.append((operation, tuple(where[i] for i in nodes[place].inputs)))
    return Constants(tuple(operations))


def unregistered(nodes: Sequence[Node]) -> list[tuple[str, Tensor]]:
    """List the tensors that nodes read and that are neither parameters nor buffers."""
    found = []
    for node in nodes:
        operation = node.operation.operation if isinstance(node.operation, Within) else node.operation
        if isinstance(operation, Literal):
            found.append((node.name, operation.value))
        elif isinstance(operation, Attribute) and isinstance(vars(operation.owner).get(operation.name), torch.Tensor):
            found.append((node.name, operation()))
    return found
