"""Which functions a graph may call, and the nodes that they become."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.graph import arithmetic, reductions, views, weighted
from gloro_fast.graph.call import BATCH, Call, Operand
from gloro_fast.graph.node import Fixed, Layer, Node
from gloro_fast.graph.operations import Function, OfList, Reshape
from gloro_fast.nn.functions import function_rule
from gloro_fast.nn.rules import LipschitzConstant

_Name = Callable[..., Any] | str

_NODES: dict[_Name, Callable[[Call, list[Node]], Node]] = {
    **dict.fromkeys(arithmetic.ADDITIONS + arithmetic.SUBTRACTIONS, arithmetic.add),
    **dict.fromkeys(arithmetic.PRODUCTS, arithmetic.multiply),
    **dict.fromkeys(arithmetic.QUOTIENTS, arithmetic.divide),
    **dict.fromkeys(arithmetic.NEGATIONS, arithmetic.negate),
    **dict.fromkeys(arithmetic.EXTREMES, arithmetic.extreme),
    **dict.fromkeys(arithmetic.CONCATENATIONS + arithmetic.STACKS, arithmetic.concatenate),
    **dict.fromkeys(reductions.MEANS + reductions.SUMS + reductions.EXTREMES, reductions.reduce),
    **dict.fromkeys(weighted.CONVOLUTIONS, weighted.convolution),
    **dict.fromkeys(weighted.MATRIX_PRODUCTS, weighted.matrix_product),
    F.linear: weighted.linear,
}
_VIEWS: dict[_Name, Callable[[Call], Node]] = {
    **dict.fromkeys(views.RESHAPES, views.reshape),
    **dict.fromkeys(views.COPIES, views.copy),
    **dict.fromkeys(views.WIDER, views.wider),
    **dict.fromkeys(views.SWAPS, views.swap),
    **dict.fromkeys(views.PERMUTATIONS, views.permute),
    **dict.fromkeys(views.FLIPS, views.flip),
    **dict.fromkeys(views.ROLLS, views.roll),
    **dict.fromkeys(views.PARTS, views.parts),
    **dict.fromkeys(views.CUTS, views.cut),
    operator.getitem: views.index,
    F.pad: views.pad,
    F.dropout: views.dropout,
}
_QUERIES = ("size", "dim", "ndimension", "numel", "is_floating_point", "stride", "get_device", "is_contiguous")
# What may be computed of parameters: it draws no random numbers, and writes over none but where asked to.
_OF_PARAMETERS = frozenset(
    (
        "abs", "add", "cat", "clamp", "clone", "contiguous", "detach", "div", "double", "exp", "expand", "flatten",
        "flip", "float", "getitem", "iadd", "imul", "isub", "itruediv", "linalg_vector_norm", "matmul", "mean", "mm",
        "mul", "neg", "norm", "permute", "pow", "prod", "reciprocal", "relu", "reshape", "rsqrt", "sigmoid",
        "softmax", "softplus", "sqrt", "square", "squeeze", "stack", "sub", "sum", "t", "tanh", "to", "transpose",
        "truediv", "unflatten", "unsqueeze", "view",
    )
)  # fmt: skip


def is_query(function: _Name) -> bool:
    """Whether a function asks a tensor for something that is no tensor, such as its size."""
    return function is getattr or function in _QUERIES


def is_known(function: _Name, constant: bool) -> bool:
    """Whether a function may be called, on tensors of the network or on parameters alone (``constant``)."""
    if constant:
        return (function if isinstance(function, str) else getattr(function, "__name__", "")) in _OF_PARAMETERS
    return function in _NODES or function in _VIEWS or function_rule(function) is not None


def constant_node(call: Call) -> Node:
    """Make the node of a call on parameters alone."""
    inputs: list[int] = []
    for argument in call.args:
        for part in argument if isinstance(argument, tuple | list) else (argument,):
            inputs += [part.index] if isinstance(part, Operand) else []
    function: Any = getattr(Tensor, call.function) if isinstance(call.function, str) else call.function
    first, rest = call.args[0], call.args[1:]
    if isinstance(first, tuple | list) and not rest and len(inputs) == len(first):
        operation: Function | OfList = OfList(function, call.keywords.get("dim", 0))
    else:
        count = next((n for n, argument in enumerate(call.args) if not isinstance(argument, Operand)), len(call.args))
        before = 0
        if count == 0:  # A number first: 1 + weight.
            before = next((n for n, argument in enumerate(call.args) if isinstance(argument, Operand)), 0)
            count = len(inputs)
        after = call.args[before + count :]
        if len(inputs) != count or _depends_on_batch((after, call.args[:before], tuple(call.keywords.values()))):
            raise call.unknown()
        operation = Function(function, call.args[:before], tuple(after), tuple(call.keywords.items()))
    return Node(call.where, operation, tuple(inputs), shape=tuple(call.output.shape))


def node_of(call: Call, nodes: list[Node]) -> Node:
    """Make the node of a call on a tensor of the network.

    Raises:
        UnknownLayerError, ArchitectureError: its constant is unknown with these arguments, or it mixes images.
    """
    if call.function in _VIEWS:
        view = _VIEWS[call.function](call)
        if not isinstance(view.operation, Reshape) and _depends_on_batch(view.operation):
            raise call.mixes()
        return view
    if call.function in _NODES:
        return _NODES[call.function](call, nodes)
    return _by_rule(call)


def _by_rule(call: Call) -> Node:
    rule = function_rule(call.function)
    assert rule is not None
    rest = tuple(call.args[1:])
    keywords = {key: value for key, value in call.keywords.items() if key != "input"}
    if _depends_on_batch((rest, tuple(keywords.values()))):
        raise call.unknown()
    try:
        known = rule(call.input.shape, *rest, **keywords)
    except TypeError:
        raise call.unknown() from None
    short = call.function if isinstance(call.function, str) else getattr(call.function, "__name__", "")
    overwrites = short.endswith("_") or keywords.get("inplace") is True or (bool(rest) and rest[-1] is True)
    if isinstance(known, nn.Module):
        # What the rule says is known is what is executed.
        layer = Layer(call.where, known.eval(), call.input.shape)
        layer.rule()
        return Node(call.where, layer.module, (call.input.index,), layer, call.shape, overwrites)
    if not isinstance(known, LipschitzConstant):
        raise ConfigError(f"the rule of {call.where} gave {known!r}; see register_lipschitz_function")
    function: Any = getattr(Tensor, call.function) if isinstance(call.function, str) else call.function
    operation = Function(function, after=rest, keywords=tuple(keywords.items()))
    return Node(call.where, operation, (call.input.index,), Fixed(call.where, known), call.shape, overwrites)


def _depends_on_batch(value: Any) -> bool:
    """Whether the batch size, a number made of it, or a tensor of the network is among arguments."""
    if isinstance(value, Function):
        return _depends_on_batch((value.before, value.after, tuple(item for _, item in value.keywords)))
    if isinstance(value, tuple | list):
        return any(_depends_on_batch(item) for item in value)
    if isinstance(value, slice):
        return _depends_on_batch((value.start, value.stop, value.step))
    plain = value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device | type(Ellipsis))
    return value is BATCH or not (plain or isinstance(value, torch.memory_format))
