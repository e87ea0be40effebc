"""Sums, products with numbers and parameters, and tensors side by side."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.call import Call, Operand
from gloro_fast.graph.node import Fixed, Joining, Node, Scaled, Times, constants
from gloro_fast.graph.operations import Function, OfList
from gloro_fast.nn.rules import LipschitzConstant

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_")
QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, torch.divide, "div", "div_")
NEGATIONS = (operator.neg, torch.neg, torch.negative, "neg")
EXTREMES: dict[Callable[..., Any] | str, Callable[..., Any]] = {
    **dict.fromkeys((torch.maximum, torch.max, "maximum", "max"), torch.maximum),
    **dict.fromkeys((torch.minimum, torch.min, "minimum", "min"), torch.minimum),
}
"""Functions of two tensors, with what they are then: ``torch.max`` of one is a reduction."""
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
STACKS = (torch.stack,)

_OVERWRITING = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def add(call: Call, nodes: list[Node]) -> Node:
    """Add or subtract two tensors, or a number."""
    left, right = operands(call)
    alpha = call.keywords.get("alpha", 1)
    if not isinstance(alpha, int | float) or not set(call.keywords) <= {"alpha", "input", "other"}:
        raise call.unknown()
    keywords = (("alpha", alpha),) if alpha != 1 else ()
    adds = call.function in ADDITIONS
    function, overwrites = _function(call, torch.add if adds else torch.sub, left)
    if isinstance(left, Operand) and isinstance(right, Operand):
        transfer = _sum(call, (left, right), (1.0, float(alpha) if adds else -float(alpha)))
        operation = Function(function, keywords=keywords)
        return Node(call.where, operation, (left.index, right.index), transfer, call.shape, overwrites, overwrites)
    if isinstance(left, Operand):
        operation = Function(function, after=(_number(call, right),), keywords=keywords)
        return Node(call.where, operation, (left.index,), Times(call.where, 1.0), call.shape, overwrites, overwrites)
    if keywords or not isinstance(right, Operand):
        raise call.unknown()
    operation = Function(operator.add if adds else operator.sub, before=(_number(call, left),))
    return Node(call.where, operation, (right.index,), Times(call.where, 1.0 if adds else -1.0), call.shape)


def multiply(call: Call, nodes: list[Node]) -> Node:
    """Multiply by a number or a tensor of parameters; two tensors of the network have no constant."""
    left, right = operands(call)
    if not isinstance(left, Operand) or left.constant:
        left, right = right, left
    return _scale(call, nodes, left, right, reciprocal=False)


def divide(call: Call, nodes: list[Node]) -> Node:
    """Divide by a number or a tensor of parameters."""
    left, right = operands(call)
    if "rounding_mode" in call.keywords:
        raise call.unknown()
    return _scale(call, nodes, left, right, reciprocal=True)


def _scale(call: Call, nodes: list[Node], x: Any, factor: Any, reciprocal: bool) -> Node:
    if not isinstance(x, Operand) or x.constant or not isinstance(x.value, Tensor):
        raise call.unknown()
    function, overwrites = _function(call, torch.div if reciprocal else torch.mul, x)
    if not isinstance(factor, Operand):
        number = float(_number(call, factor))
        if reciprocal:
            # Rounded away from 0: the next float is beyond the real quotient.
            number = math.nextafter(1 / number, math.copysign(math.inf, number)) if number else math.inf
        if not math.isfinite(number):
            raise ArchitectureError(f"{call.where} scales by {number}; give a number that is finite")
        operation = Function(function, after=(_number(call, factor),))
        times = Times(call.where, number)
        return Node(call.where, operation, (x.index,), times, call.shape, overwrites, overwrites)
    if not factor.constant:
        raise ArchitectureError(
            f"{call.where} multiplies or divides two tensors of the network, which has no Lipschitz constant; "
            "register a rule for a layer that does it on bounded values"
        )
    _expansion(call, factor)
    if call.shape != x.shape:
        raise call.unknown()
    transfer = Scaled(call.where, constants(nodes, factor.index), reciprocal, x.shape)
    inputs = (x.index, factor.index)
    return Node(call.where, Function(function), inputs, transfer, call.shape, overwrites, overwrites)


def negate(call: Call, nodes: list[Node]) -> Node:
    """Change the sign."""
    return Node(call.where, Function(torch.neg), (call.input.index,), Times(call.where, -1.0), call.shape)


def extreme(call: Call, nodes: list[Node]) -> Node:
    """Take the larger or smaller of two tensors, element by element: it moves no more than both together."""
    left, right = operands(call)
    if not (isinstance(left, Operand) and isinstance(right, Operand)):
        raise call.unknown()
    function = EXTREMES[call.function]
    factors = tuple(_expansion(call, side) for side in (left, right) if not side.constant)
    return Node(
        call.where, Function(function), (left.index, right.index), Joining(call.where, factors, True), call.shape
    )


def concatenate(call: Call, nodes: list[Node]) -> Node:
    """Lay tensors side by side along a dimension of the images."""
    names = ("tensors", "dim", "axis")
    given = dict(zip(names, call.args, strict=False)) | call.keywords
    tensors, dim = given.pop("tensors", None), given.pop("dim", given.pop("axis", 0))
    if not isinstance(dim, int) or dim % call.output.ndim == 0:
        raise call.mixes()
    function: Any = torch.stack if call.function in STACKS else torch.cat
    if isinstance(tensors, Operand) and not given:
        # A tuple of parts, as of chunk: it has the norm of all of them already.
        transfer = Fixed(call.where, LipschitzConstant(1.0))
        return Node(call.where, Function(function, after=(dim,)), (tensors.index,), transfer, call.shape)
    # A constant among them would need as many rows as there are images.
    known = isinstance(tensors, tuple | list) and all(isinstance(t, Operand) and not t.constant for t in tensors)
    if given or not known:
        raise call.unknown()
    factors = (1.0,) * len(tensors)
    inputs = tuple(t.index for t in tensors)
    return Node(call.where, OfList(function, dim), inputs, Joining(call.where, factors, True), call.shape)


def _sum(call: Call, sides: tuple[Operand, Operand], numbers: tuple[float, float]) -> Joining:
    used = [(n, _expansion(call, side)) for n, side in zip(numbers, sides, strict=True) if not side.constant]
    if any(_expansion(call, side) != 1.0 for side in sides):
        factors = tuple(math.nextafter(abs(n) * times, math.inf) for n, times in used)
        return Joining(call.where, factors, stacked=False)
    exact = tuple(n for n, _ in used)
    return Joining(call.where, tuple(abs(n) for n in exact), stacked=False, numbers=exact)


def operands(call: Call) -> tuple[Any, Any]:
    """Give the two arguments of a call, tensors or not."""
    given = [*call.args, *(call.keywords[key] for key in ("input", "other") if key in call.keywords)]
    if len(given) != 2 or any(isinstance(side, Operand) and not isinstance(side.value, Tensor) for side in given):
        raise call.unknown()
    return given[0], given[1]


def _number(call: Call, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise call.unknown()
    return float(value) if isinstance(value, float) else int(value)


def _expansion(call: Call, side: Operand) -> float:
    """Give how much longer broadcasting makes a vector, rounded up; refuse one that reaches the batch."""
    rank = call.output.ndim
    images = side.value.shape[0] if side.value.ndim == rank else 1
    if side.value.ndim > rank or (side.constant and images != 1) or (not side.constant and side.value.ndim != rank):
        raise call.mixes()
    if side.constant:
        return 1.0
    times = math.prod(call.shape) // max(1, math.prod(side.shape))
    root = math.isqrt(times)
    return float(root) if root * root == times else math.nextafter(math.sqrt(times), math.inf)


def _function(call: Call, function: Callable[..., Any], first: Any) -> tuple[Callable[..., Any], bool]:
    """Give the function to execute, and whether it writes over ``first``, as the one that was called does."""
    overwriting: Any = None
    if call.function in _OVERWRITING:
        overwriting = call.function
    elif isinstance(call.function, str) and call.function.endswith("_"):
        overwriting = getattr(Tensor, call.function)
    if overwriting is None:
        return function, False
    if not isinstance(first, Operand) or first.constant or call.args[0] is not first:
        raise ArchitectureError(f"{call.where} writes over a parameter; compute a new tensor instead")
    return overwriting, True
