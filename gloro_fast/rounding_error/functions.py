"""Which functions between layers it is known of how they round, and what is to be found out about each of them."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloro_fast.bounds.absolute import absolute_norm
from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.node import Fixed, Joining, Layer, Node, Normalized, Scaled, Times, Weighted, constants
from gloro_fast.graph.operations import Function, Operation, Reshape, Slot, Within
from gloro_fast.nn.pairwise_minmax import pairwise_minmax, pairwise_minmax_
from gloro_fast.rounding_error.arithmetic import Arithmetic, norms
from gloro_fast.rounding_error.kinds import make_step, number_of_terms, scaling
from gloro_fast.rounding_error.state import Step
from gloro_fast.rounding_error.steps import Addition, Selection, Sums
from gloro_fast.rules.registry import LinearMap

# Operations of ATen whose outputs are inputs of theirs, or zeros: "min" and "max" along a dimension.
_SELECTIONS = frozenset(
    (
        "view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "unflatten", "clone", "contiguous",
        "detach", "alias", "positive", "transpose", "permute", "flip", "roll", "chunk", "split", "split_with_sizes",
        "unbind", "select", "slice", "expand", "repeat", "im2col", "unfold", "amax", "amin", "max", "min", "dropout",
        "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
    )
)  # fmt: skip
_PADDING = {"pad": 3, "constant_pad_nd": 2}
_CONVERSIONS = ("to", "_to_copy", "type_as")
_SUMS = ("sum", "mean")
_OWN_SELECTIONS = (operator.getitem, pairwise_minmax, pairwise_minmax_)
_JOINED_SELECTIONS = ("cat", "stack", "maximum", "minimum", "max", "min")


@dataclass(frozen=True)
class WithConstants:
    """An operation with what parameters make of themselves in its places, as the program has it but in float64.

    Attributes:
        operation: the operation.
        constants: for each of its inputs the constant, None for a tensor of the network.
    """

    operation: Operation
    constants: tuple[Tensor | None, ...]

    def __call__(self, *values: Any) -> Any:
        """Call it on the tensors of the network."""
        rest = iter(values)
        return self.operation(*(next(rest) if value is None else value for value in self.constants))

    def at_zero(self, shapes: Sequence[tuple[int, ...]]) -> Tensor:
        """Return what it adds: its output for images of zeros."""
        device = next((value.device for value in self.constants if value is not None), None)
        result: Tensor = self(*(torch.zeros(1, *shape, dtype=torch.float64, device=device) for shape in shapes))
        return result


def step_of(nodes: Sequence[Node], index: int, constant: float, arithmetic: Arithmetic) -> Step:
    """Return what bounds the rounding of a node.

    Args:
        nodes: the graph.
        index: the node, which is neither constant nor the input.
        constant: its Lipschitz constant, as bounded; anything where it has several inputs.
        arithmetic: the program's.

    Raises:
        ArchitectureError: it is not known how it rounds; names it.
    """
    node = nodes[index]
    transfer = node.transfer
    call = with_constants(nodes, index)
    if isinstance(transfer, Layer):
        step = make_step(transfer.name, transfer.module, transfer.input_shape, transfer.rule(), constant, arithmetic)
        # A function may give more than the layer that stands for it: largest numbers, and where they were.
        if isinstance(step, Selection) and not isinstance(call.operation, torch.nn.Module):
            return dataclasses.replace(step, operation=call)
        return step
    shapes = [nodes[i].shape for i in node.inputs if not nodes[i].is_constant]
    name = packet(call.operation)
    if isinstance(transfer, Joining):
        if not transfer.stacked:
            as_they_are = len(transfer.numbers) == len(call.constants) and all(abs(n) == 1 for n in transfer.numbers)
            return _addition(call, shapes, transfer.factors, arithmetic, as_they_are)
        # A constant of a wider type would be rounded.
        if name in _JOINED_SELECTIONS and all(c is None or arithmetic.holds(c) for c in call.constants):
            return Selection(call, transfer.factors, arithmetic, stacked=True)
    elif isinstance(transfer, Times | Scaled):
        return _addition(call, shapes, (constant,), arithmetic)
    elif isinstance(transfer, Weighted):
        rule = transfer.rule()
        assert isinstance(rule, LinearMap)
        return _weighted(node.name, call, rule, shapes[0], constant, arithmetic)
    elif isinstance(transfer, Normalized):
        shift, bias = (_argument(call, key) for key in ("running_mean", "bias"))
        if isinstance(shift, Tensor):
            gain = None if transfer.gain is None else transfer.gain.value()
            square = transfer.variance.value().double() + transfer.eps
            return scaling(shift, square, gain, bias, shapes[0], constant, arithmetic)
    elif isinstance(transfer, Fixed):
        if name in _CONVERSIONS:
            # To a type that holds all values.
            return Selection(torch.nn.Identity(), (constant,), arithmetic)
        if _selects(call.operation):
            return Selection(call, (constant,), arithmetic)
        if name in _SUMS and _argument(call, "dtype") is None:
            return _sum(node, call, shapes[0], constant, arithmetic)
    raise unbounded(node.name)


def with_constants(nodes: Sequence[Node], index: int) -> WithConstants:
    """Return the operation of a node with the constants that it reads, as they are now.

    Raises:
        ArchitectureError: one depends on the number of images, or is no tensor.
    """
    node = nodes[index]
    values: list[Tensor | None] = []
    for source in node.inputs:
        if not nodes[source].is_constant:
            values.append(None)
            continue
        value = constants(nodes, source).value()
        if not isinstance(value, Tensor):
            raise unbounded(node.name)
        # A copy, which does not follow when the net is trained on.
        values.append(value.detach().double().clone())
    operation = node.operation
    assert operation is not None
    return WithConstants(operation.operation if isinstance(operation, Within) else operation, tuple(values))


def unbounded(name: str) -> ArchitectureError:
    """Make the error for an operation of which it is not known how it rounds."""
    return ArchitectureError(
        f"{name or 'the module'} is an operation whose rounding is not bounded; certify without executed"
    )


def packet(operation: Operation) -> str:
    """Return the name of an operation of ATen, the same in place or not; empty for others."""
    schema = getattr(operation.function, "_schema", None) if isinstance(operation, Function) else None
    if schema is None:
        return ""
    name: str = schema.name.partition("::")[2]
    return name if name.startswith("_") else name.removesuffix("_")


def _selects(operation: Operation) -> bool:
    if isinstance(operation, Reshape):
        return True
    if not isinstance(operation, Function):
        return False
    name = packet(operation)
    if name in _PADDING:
        place = _PADDING[name]
        value = operation.args[place] if place < len(operation.args) else dict(operation.keywords).get("value")
        # Another number would be rounded.
        return value in (None, 0)
    return name in _SELECTIONS or operation.function in _OWN_SELECTIONS


def _argument(call: WithConstants, name: str) -> Any:
    """Return the argument of a function of ATen, a constant as its value; None by default."""
    assert isinstance(call.operation, Function)
    schema: Any = call.operation.function._schema  # type: ignore[attr-defined]
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, call.operation.args, strict=False)), **dict(call.operation.keywords)}
    value = given.get(name)
    return call.constants[value.place] if isinstance(value, Slot) else value


def _addition(
    call: WithConstants,
    shapes: Sequence[tuple[int, ...]],
    factors: tuple[float, ...],
    arithmetic: Arithmetic,
    as_they_are: bool = False,
) -> Addition:
    added = call.at_zero(shapes)
    roundings = len(factors) - 1 if as_they_are else len(factors) + 6
    return Addition(call, factors, float(norms(added)), roundings, added.numel(), arithmetic)


def _weighted(
    name: str, call: WithConstants, rule: LinearMap, shape: tuple[int, ...], constant: float, arithmetic: Arithmetic
) -> Sums:
    added, terms = call.at_zero([shape]), number_of_terms(rule)
    absolute, inputs = absolute_norm(rule), math.prod(shape)
    return Sums(name, call, constant, absolute, terms, added.numel(), inputs, float(norms(added)), arithmetic)


def _sum(node: Node, call: WithConstants, shape: tuple[int, ...], constant: float, arithmetic: Arithmetic) -> Sums:
    """Take sums and means along dimensions for sums of products with 1 or 1/n, as averages are."""
    inputs, outputs = math.prod(shape), math.prod(node.shape)
    return Sums(node.name, call, constant, constant, inputs // max(1, outputs), outputs, inputs, 0.0, arithmetic)
