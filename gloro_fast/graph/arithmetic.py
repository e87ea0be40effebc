"""Sums, products with numbers and parameters, and tensors side by side."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.batch import is_batch_size
from gloro_fast.graph.call import Call, Number, Operand
from gloro_fast.graph.node import Fixed, Joining, Node, Scaled, Times, constants
from gloro_fast.graph.operations import Function, Slot
from gloro_fast.rules.registry import LipschitzConstant


def add(call: Call, nodes: list[Node]) -> Node:
    """Read a sum or difference of two tensors, or with a number."""
    left, right = _operands(call)
    alpha = call.given.get("alpha", 1)
    if isinstance(alpha, Number) or isinstance(left, Number) or isinstance(right, Number):
        # What is added moves no image; what multiplies does.
        if not isinstance(left, Operand) or isinstance(right, Operand) or isinstance(alpha, Number):
            raise call.unknown()
        return call.node(Fixed(call.where, LipschitzConstant(1.0, per_element=True)))
    signs = {"add": (1.0, float(alpha)), "sub": (1.0, -float(alpha)), "rsub": (-float(alpha), 1.0)}[call.packet]
    if isinstance(left, Operand) and isinstance(right, Operand):
        return call.node(_sum(call, (left, right), signs))
    side, sign = (left, signs[0]) if isinstance(left, Operand) else (right, signs[1])
    if side.constant:
        raise call.unknown()
    return call.node(Times(call.where, sign))


def multiply(call: Call, nodes: list[Node]) -> Node:
    """Read a product with a number or a tensor of parameters; two tensors of the network have no constant."""
    left, right = _operands(call)
    if not isinstance(left, Operand) or left.constant:
        left, right = right, left
    return _scale(call, nodes, left, right, reciprocal=False)


def divide(call: Call, nodes: list[Node]) -> Node:
    """Read a quotient by a number or a tensor of parameters."""
    if call.given.get("rounding_mode") is not None:
        raise call.unknown()
    return _scale(call, nodes, *_operands(call), reciprocal=True)


def add_product(call: Call, nodes: list[Node]) -> Node:
    """Read a + number * b * c where one of b and c, and nothing else, is a tensor of the network."""
    base, left, right, number = (call.given[key] for key in ("self", "tensor1", "tensor2", "value"))
    if left.constant:
        left, right = right, left
    if not base.constant or number != 1:
        raise call.unknown()
    return _scale(call, nodes, left, right, reciprocal=False)


def _scale(call: Call, nodes: list[Node], x: Any, factor: Any, reciprocal: bool) -> Node:
    if not isinstance(x, Operand) or x.constant or not isinstance(x.value, Tensor):
        raise call.unknown()
    if isinstance(factor, Number):
        return call.node(Fixed(call.where, LipschitzConstant(_largest(call, factor, reciprocal), "upper bound", True)))
    if not isinstance(factor, Operand):
        number = _number(call, factor)
        if reciprocal:
            # Rounded away from 0: the next float is beyond the real quotient.
            number = math.nextafter(1 / number, math.copysign(math.inf, number)) if number else math.inf
        if not math.isfinite(number):
            raise ArchitectureError(f"{call.where} scales by {number}; give a number that is finite")
        return call.node(Times(call.where, number))
    if not factor.constant:
        raise ArchitectureError(
            f"{call.where} multiplies or divides two tensors of the network, which has no Lipschitz constant; "
            "register a rule for a layer that does it on bounded values"
        )
    _expansion(call, factor)
    if call.shape != x.shape or (factor.value.ndim == call.output.ndim and factor.value.shape[0] != 1):
        raise call.unknown()
    return call.node(Scaled(call.where, constants(nodes, factor.index), reciprocal, x.shape))


def _largest(call: Call, number: Number, reciprocal: bool) -> float:
    """Return an upper bound on the absolute value of a factor that depends on the number of images, for all of them."""
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    expression = number.value.node.expr
    # Every number of images counts, also those that the capture found to lie outside of its ranges.
    ranges = {symbol: ValueRanges(1, 2**62) for symbol in expression.free_symbols}
    found = bound_sympy(expression, ranges)
    low, high = float(found.lower), float(found.upper)
    if reciprocal:
        low, high = (math.inf, math.inf) if low <= 0 <= high else (1 / low, 1 / high)
    largest = max(abs(low), abs(high))
    if not largest < 2**31:
        raise ArchitectureError(
            f"{call.where} scales by a number that has no limit as the number of images grows; leave the batch out of "
            "it"
        )
    return math.nextafter(largest, math.inf)


def extreme(call: Call, nodes: list[Node]) -> Node:
    """Read the larger or smaller of two tensors, element by element: it moves no more than both together."""
    left, right = _operands(call)
    if not (isinstance(left, Operand) and isinstance(right, Operand)):
        raise call.unknown()
    factors = tuple(_expansion(call, side) for side in (left, right) if not side.constant)
    return call.node(Joining(call.where, factors, True))


def concatenate(call: Call, nodes: list[Node]) -> Node:
    """Read tensors side by side along a dimension of the images."""
    tensors, dim = call.given["tensors"], call.given["dim"]
    if not isinstance(dim, int) or dim % call.output.ndim == 0:
        raise call.mixes()
    if isinstance(tensors, Operand) and not tensors.constant:
        # A tuple of parts, as of chunk: it has the norm of all of them already.
        return call.node(Fixed(call.where, LipschitzConstant(1.0)))
    if not all(isinstance(t, Operand) for t in tensors):
        raise call.unknown()
    whole = _parts_of_one(tensors, nodes)
    if whole is not None:
        source, order = whole
        join = Function(_laid, (torch.stack if call.packet == "stack" else torch.cat, Slot(0), order, dim))
        return call.node(Fixed(call.where, LipschitzConstant(1.0)), join, (source,))
    return call.node(Joining(call.where, (1.0,) * sum(not t.constant for t in tensors), True))


def _laid(function: Callable[..., Tensor], parts: Sequence[Tensor], order: tuple[int, ...], dim: int) -> Tensor:
    return function([parts[place] for place in order], dim)


def _parts_of_one(tensors: list[Operand], nodes: list[Node]) -> tuple[int, tuple[int, ...]] | None:
    """Return the tuple that all tensors are different parts of, as of chunk(), so that they have the norm of all."""
    sources, order = set(), []
    for tensor in tensors:
        node = nodes[tensor.index]
        if not isinstance(node.operation, Function) or node.operation.function is not operator.getitem:
            return None
        sources.add(node.inputs[0])
        order.append(node.operation.args[1])
    return (sources.pop(), tuple(order)) if len(sources) == 1 and len(set(order)) == len(order) else None


def _sum(call: Call, sides: tuple[Operand, Operand], numbers: tuple[float, float]) -> Joining:
    used = [(n, _expansion(call, side)) for n, side in zip(numbers, sides, strict=True) if not side.constant]
    if any(_expansion(call, side) != 1.0 for side in sides):
        factors = tuple(math.nextafter(abs(n) * times, math.inf) for n, times in used)
        return Joining(call.where, factors, stacked=False)
    exact = tuple(n for n, _ in used)
    return Joining(call.where, tuple(abs(n) for n in exact), stacked=False, numbers=exact)


def _operands(call: Call) -> tuple[Any, Any]:
    """Return the two arguments of a call, tensors or not."""
    left, right = call.given["self"], call.given["other"]
    if any(isinstance(side, Operand) and not isinstance(side.value, Tensor) for side in (left, right)):
        raise call.unknown()
    return left, right


def _number(call: Call, value: Any) -> float:
    if not isinstance(value, int | float):
        raise call.unknown()
    return float(value)


def _expansion(call: Call, side: Operand) -> float:
    """Return how much longer broadcasting makes a vector, rounded up; refuse one that reaches the batch.

    A constant with a row for each image has the same in all of them: see ``functions.constant_node``.
    """
    rank = call.output.ndim
    images = side.value.shape[0] if side.value.ndim == rank else 1
    same = side.constant and (images == 1 or is_batch_size(images))
    if side.value.ndim > rank or (side.constant and not same) or (not side.constant and side.value.ndim != rank):
        raise call.mixes()
    if side.constant:
        return 1.0
    times = math.prod(call.shape) // max(1, math.prod(side.shape))
    root = math.isqrt(times)
    return float(root) if root * root == times else math.nextafter(math.sqrt(times), math.inf)
