"""How a graph is executed: its operations one after the other, some two of them as one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.graph.flattening import FlattenedLinear
from gloro_fast.graph.node import Joining, Layer, Node
from gloro_fast.graph.operations import Function, Within
from gloro_fast.graph.strictly import Strictly, strictly
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.pairwise_minmax import PairwiseMinMax
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.rules.registry import is_dense, traits_of

# A step on the values of earlier ones, in numbered slots: (what, slots read, slot written, slots emptied afterwards).
Step = tuple[Callable[..., Any], tuple[int, ...], int, tuple[int, ...]]

# Operations that give new memory, and whose gradient needs none of their results.
_NEW = (torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, torch.ops.aten.cat.default)


@dataclass(frozen=True)
class BiasedMinMax:
    """A convolution or dense layer and the MinMax after it, the bias added in MinMax's pass over the memory.

    The bias gradient then comes from MinMax's backward pass as well. In real arithmetic it is the same function;
    parameters stay where they are.

    Attributes:
        linear: the first layer, a module or a ``FlattenedLinear``, which has a ``bias``.
        product: applies it without its bias.
    """

    linear: Any
    product: Callable[[Tensor], Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        linear = self.linear
        if isinstance(linear, FlattenedLinear):
            product: Callable[[Tensor], Tensor] = linear.without_bias
        else:
            without_bias = traits_of(linear).without_bias
            assert without_bias is not None
            product = partial(without_bias, linear)
        object.__setattr__(self, "product", product)

    def __call__(self, x: Tensor) -> Tensor:
        """Apply both layers to a batch."""
        # Nobody else has the product, and neither it nor a convolution needs its own result for its gradient.
        return minmax_(self.product(x), self.linear.bias)


@dataclass(frozen=True)
class StrictBiasedMinMax:
    """The same, of whose functions the mode that keeps products from TF32 need not see those of MinMax.

    That is 12 of the 15 microseconds that it takes in Python.
    """

    step: BiasedMinMax
    product: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply both layers to a batch."""
        return minmax_(self.product(x), self.step.linear.bias)


@dataclass(frozen=True)
class Program:
    """The steps of a graph.

    Attributes:
        chain: the operations of a graph that is a sequence; empty if it is none.
        steps: the operations with the slots of their inputs and outputs; slot 0 begins with the input.
        slots: how many there are.
        result: the slot of the logits.
    """

    chain: tuple[Callable[..., Any], ...]
    steps: tuple[Step, ...]
    slots: int
    result: int

    def __call__(self, x: Tensor) -> Tensor:
        """Execute the steps on a batch."""
        if self.chain:
            for operation in self.chain:
                x = operation(x)
            return x
        values: list[Any] = [None] * self.slots
        values[0] = x
        for operation, reads, write, emptied in self.steps:
            values[write] = operation(*[values[slot] for slot in reads])
            for slot in emptied:
                values[slot] = None
        result: Tensor = values[self.result]
        return result


def program(nodes: Sequence[Node], output: int, fuse: bool = True, strict: bool = False) -> Program:
    """Arrange the steps that compute node ``output``, in the order of the nodes, in as few slots as they need.

    Args:
        nodes: the graph, the input first.
        output: the index of the logits.
        fuse: make one step of two nodes where that may be.
        strict: keep the steps from TF32 on a GPU, whatever its switches say.
    """
    operations = _fuse(nodes, output, fuse)
    if strict:
        operations = {
            index: (_strict(operation, nodes[index]), inputs) for index, (operation, inputs) in operations.items()
        }
    operations = {index: (_without_hooks(operation), inputs) for index, (operation, inputs) in operations.items()}
    last_use = {source: index for index, (_, inputs) in operations.items() for source in inputs}
    last_use[output] = len(nodes)
    slot_of, free, slots = {0: 0}, [], 1
    steps: list[Step] = []
    for index, (operation, inputs) in operations.items():
        reads = tuple(slot_of[source] for source in inputs)
        done = sorted({slot_of[source] for source in inputs if last_use[source] == index})
        free += done
        if not free:
            free, slots = [slots], slots + 1
        slot_of[index] = free.pop(0)
        steps.append((operation, reads, slot_of[index], tuple(slot for slot in done if slot != slot_of[index])))
    chain = tuple(operation for operation, *_ in steps) if slots == 1 else ()
    chain = chain if all(reads == (0,) for _, reads, *_ in steps) else ()
    return Program(chain, tuple(steps), slots, slot_of[output])


def _fuse(nodes: Sequence[Node], output: int, fuse: bool) -> dict[int, tuple[Callable[..., Any], tuple[int, ...]]]:
    """Return the operation and inputs of each node that is needed, two nodes as one step where that may be."""
    needed = {output, *(index for index, node in enumerate(nodes) if node.is_effect)}
    for index in range(len(nodes) - 1, 0, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    users: dict[int, int] = {output: 1}
    for index in needed:
        for source in nodes[index].inputs:
            users[source] = users.get(source, 0) + 1
    operations: dict[int, tuple[Callable[..., Any], tuple[int, ...]]] = {}
    # Two nodes as one step run at the place of the later; the earlier must find there what it would have read.
    overwriting = [index for index in needed if nodes[index].overwrites]
    begins: dict[int, int] = {}

    def may_wait(first: int, index: int) -> bool:
        begin = begins.get(first, first)
        if any(begin < place < index for place in overwriting):
            return False
        begins[index] = begin
        return True

    for index in sorted(needed - {0}):
        node = nodes[index]
        assert node.operation is not None
        operation: Callable[..., Any] = node.operation
        inputs = node.inputs
        if not fuse:
            pass
        elif _is_minmax(node) and users[inputs[0]] == 1:
            before = nodes[inputs[0]]
            if has_channel_bias(before) and may_wait(inputs[0], index):
                linear, inputs = operations.pop(inputs[0])
                operation = BiasedMinMax(linear)
            elif _needs_not_its_output(before):
                operation = minmax_
        elif (
            isinstance(operation, nn.Linear)
            and is_dense(operation)
            and _flattens_images(nodes, inputs[0], users)
            and may_wait(inputs[0], index)
        ):
            operation, inputs = FlattenedLinear(operation), nodes[inputs[0]].inputs
            del operations[node.inputs[0]]
        operations[index] = (operation, inputs)
    return operations


def _strict(operation: Callable[..., Any], node: Node) -> Callable[..., Any]:
    strict = strictly(operation, node.name, node.is_constant)
    if isinstance(operation, BiasedMinMax) and isinstance(strict, Strictly) and strict.known:
        return StrictBiasedMinMax(operation, dataclasses.replace(strict, operation=operation.product))
    return strict


def _without_hooks(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return what computes a layer with forward hooks, which may change values at any call and so have no part in it.

    Layers without are called as modules, so that their backward hooks fire.
    """
    if isinstance(operation, Within | Strictly):
        inner: Any = _without_hooks(operation.operation)
        return dataclasses.replace(operation, operation=inner)
    everywhere = torch.nn.modules.module
    if isinstance(operation, nn.Module) and (
        operation._forward_hooks
        or operation._forward_pre_hooks
        or everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
    ):
        return operation.forward
    return operation


def _is_minmax(node: Node) -> bool:
    kind = type(node.operation)
    return kind is MinMax or (kind is PairwiseMinMax and node.shape[0] % 2 == 0)


def _flattens_images(nodes: Sequence[Node], index: int, users: Mapping[int, int]) -> bool:
    """Return whether the node makes rows of a batch (B, C, H, W), for one reader."""
    module = nodes[index].operation
    return (
        type(module) is nn.Flatten
        and users[index] == 1
        and (module.start_dim, module.end_dim) in ((1, -1), (1, 3))
        and len(nodes[nodes[index].inputs[0]].shape) == 3
    )


def has_channel_bias(node: Node) -> bool:
    """Return whether the layer adds a bias along dimension 1, where MinMax finds its channels."""
    module = node.operation
    if not isinstance(node.transfer, Layer) or not isinstance(module, nn.Module):
        return False
    if traits_of(module).without_bias is None or module.bias is None:
        return False
    return len(node.shape) == 1 or not is_dense(module)


def _needs_not_its_output(node: Node) -> bool:
    """Return whether the output is new memory that the operation's gradient does not read, so that it may be lost."""
    if node.shares or node.overwrites:
        return False
    if isinstance(node.operation, Function):
        return isinstance(node.transfer, Joining) and node.operation.function in _NEW
    return isinstance(node.operation, nn.Module) and traits_of(node.operation).spares_output
