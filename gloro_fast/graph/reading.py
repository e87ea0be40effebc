"""Turning a captured graph into nodes with rules."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import SymInt, Tensor, fx, nn
from torch._ops import OpOverload

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.batch import is_batch_size, shape_of_images
from gloro_fast.graph.call import Call, Number, Operand, flat
from gloro_fast.graph.capture import Capture, capture, scope_of
from gloro_fast.graph.functions import constant_node, is_constant, is_known, node_of, node_of_whole
from gloro_fast.graph.node import Layer, Node
from gloro_fast.graph.operations import (
    Attribute,
    Function,
    Literal,
    Operation,
    Slot,
    Within,
    is_order_preserving,
)
from gloro_fast.graph.watcher import Whole
from gloro_fast.rules.integrity import check_weight
from gloro_fast.rules.real import require_floating, require_real

_aten, _own = torch.ops.aten, torch.ops.gloro_fast
_DROPOUT = (_aten.dropout, _aten.feature_dropout, _aten.alpha_dropout, _aten.feature_alpha_dropout)
_SIZES = (_aten.sym_size.int, _aten.sym_numel.default, _aten.sym_stride.int)
_FRESH = (_aten.lift_fresh_copy.default, _aten.lift_fresh.default, _aten.detach_.default)
_ENTER, _EXIT = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError, ArithmeticError)


def capture_known(module: nn.Module, x: Tensor) -> Capture:
    """Capture ``module`` in the mode in which it is, operations that nothing is known of as what they are made of.

    Arguments and errors are those of :func:`gloro_fast.graph.capture.capture`.
    """
    decomposed: frozenset[Any] = frozenset()
    while True:
        captured = capture(module, x, decomposed)
        composite = _composite(captured.graph, decomposed)
        if not composite:
            return captured
        decomposed |= composite


def read(module: nn.Module, captured: Capture, training: bool) -> tuple[tuple[Node, ...], int]:
    """Make nodes of what a module does.

    Args:
        module: from (B, *input_shape) to logits (B, m).
        captured: what it does.
        training: whether it was captured as it is in training.

    Returns:
        The nodes in order of execution, the input first, and the index of the logits.

    Raises:
        UnknownLayerError, ArchitectureError: name the node.
    """
    with torch.no_grad():
        return _Reader(module, captured, training).read()


def _composite(graph: fx.Graph, decomposed: frozenset[Any]) -> frozenset[Any]:
    calls = {node.target for node in graph.nodes if node.op == "call_function" and isinstance(node.target, OpOverload)}
    return frozenset(
        target
        for target in calls - decomposed
        if target.namespace == "aten"
        and target._can_decompose()
        and torch.Tag.nondeterministic_seeded not in target.tags
        and not is_known(Call("", target, {}, None, False, (), Function(target)))
    )


class _Reader:
    def __init__(self, module: nn.Module, captured: Capture, training: bool) -> None:
        self.captured, self.training = captured, training
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, Operand | Number | int | float] = {}
        self.owners = _owners(module)
        self.no_grad = False
        self.autocasts: list[tuple[str, torch.dtype, bool]] = []

    def read(self) -> tuple[tuple[Node, ...], int]:
        """Make the nodes."""
        graph = self.captured.graph
        _refuse_chance(graph)
        (returned,) = next(node for node in graph.nodes if node.op == "output").args
        needed = _needed(graph, returned)
        for traced in graph.nodes:
            if traced.op == "placeholder":
                value = traced.meta["val"]
                self._add(traced, Node("input", None, shape=shape_of_images("input", value)))
            elif traced.op == "get_attr" and traced in needed:
                self._read_attribute(traced)
            elif traced.op == "call_function" and not self._enters(traced) and traced in needed:
                self._read_call(traced)
        return tuple(self.nodes), self._output(returned)

    def _output(self, returned: fx.Node) -> int:
        value = self.values[returned]
        if not isinstance(value, Operand) or value.constant:
            raise ArchitectureError("the module returns what does not depend on its input; return the logits (B, m)")
        shape = value.shape
        if len(shape) != 1:
            raise ArchitectureError(
                f"the module gives {tuple(value.value.shape)[1:]} for each image; logits must be (B, m), so add a "
                "Flatten"
            )
        if shape[0] < 2:
            raise ArchitectureError(f"the module gives {shape[0]} logit a row; a classifier needs at least 2 classes")
        return value.index

    def _enters(self, traced: fx.Node) -> bool:
        """Follow the context managers of the forward."""
        if traced.target is torch._C._set_grad_enabled:
            self.no_grad = not traced.args[0]
        elif traced.target is _ENTER:
            device, dtype, enabled, *_ = traced.args
            self.autocasts.append((str(device), dtype or torch.get_autocast_dtype(str(device)), bool(enabled)))  # type: ignore[arg-type]
        elif traced.target is _EXIT:
            self.autocasts.pop()
        else:
            return str(getattr(traced.target, "namespace", "")) == "profiler"
        return True

    def _read_attribute(self, traced: fx.Node) -> None:
        tensor = self.captured.tensors[str(traced.target)]
        owner = self.owners.get(id(tensor))
        if owner is None and tensor.requires_grad:
            raise ArchitectureError(
                f"{scope_of(traced) or 'the module'} uses a parameter that is no attribute of a module, so that "
                "nothing trains it; make it one, or put it into an nn.ParameterList"
            )
        if owner is None:
            name, operation = f"{scope_of(traced)}.a tensor".removeprefix("."), Literal(tensor.detach())
            self._add(traced, Node(name, operation, shape=tuple(tensor.shape)), constant=True)
        else:
            module, key, name = owner
            self._add(traced, Node(name, Attribute(module, key), shape=tuple(tensor.shape)), constant=True)

    def _read_call(self, traced: fx.Node) -> None:
        target: Any = traced.target
        if target is _own.parametrized.default:
            whole = self.captured.wholes[traced.args[0]]  # type: ignore[index]
            self._add(traced, Node(whole.name, whole.called, shape=tuple(traced.meta["val"].shape)), constant=True)
        elif target is _own.whole.default:
            self._read_whole(traced, self.captured.wholes[traced.args[1]])  # type: ignore[index]
        elif target in _FRESH:
            # The copy that torch.tensor() makes of its numbers: nobody else has them.
            self.values[traced] = self.values[traced.all_input_nodes[0]]
        elif not _tensors(traced.meta.get("val")):
            self._read_number(traced)
        else:
            self._read_operation(traced)

    def _read_number(self, traced: fx.Node) -> None:
        """Follow a number: fixed, or made of the number of images."""
        value = traced.meta.get("val")
        if isinstance(value, bool | int | float) and not is_batch_size(value):
            self.values[traced] = value
            return
        of_tensor = any(isinstance(self.values[node], Operand) for node in traced.all_input_nodes)
        if not isinstance(value, SymInt | torch.SymFloat | int) or (of_tensor and traced.target not in _SIZES):
            raise ArchitectureError(
                f"{self._where(traced)} takes a number from the values of a tensor; compute with the tensor instead"
            )
        places, function = self._function(traced, traced.target)
        self.nodes.append(Node(self._where(traced), self._within(function), places))
        self.values[traced] = Number(len(self.nodes) - 1, value)

    def _read_whole(self, traced: fx.Node, whole: Whole) -> None:
        (source,) = traced.all_input_nodes
        x, result = self.values[source], traced.meta["val"]
        assert isinstance(x, Operand)
        if not isinstance(whole.called, nn.Module):
            where = f"{whole.name}.{getattr(whole.called, '__name__', whole.called)}()".removeprefix(".")
            if x.constant:
                operation = Function(whole.called, (Slot(0), *whole.args), whole.keywords)
                self._add(traced, Node(where, operation, (x.index,), shape=tuple(result.shape)), constant=True)
            else:
                self._add(traced, node_of_whole(where, whole, x, shape_of_images(where, result)))
            return
        name, module = whole.name, whole.called
        where = f"{name or 'the module'} ({type(module).__name__})"
        if x.constant:
            raise ArchitectureError(
                f"{where} is not called with one tensor of the network, which is all its rule knows"
            )
        layer = Layer(name, module, x.shape, x.value.dtype)
        with _in_one_line(f"{where} does not take its input of shape {x.shape}"):
            check_weight(name, layer.rule())
        shape = shape_of_images(where, result)
        shares = whole.shares or is_order_preserving(module)
        self._add(traced, Node(name, module, (x.index,), layer, shape, whole.overwrites, shares))

    def _read_operation(self, traced: fx.Node) -> None:
        where, target = self._where(traced), traced.target
        inputs, function = self._function(traced, target)
        output = traced.meta["val"]
        call = Call(where, target, self._given(traced), output, self.training, inputs, function)
        operands = [value for value in flat(list(call.given.values())) if isinstance(value, Operand)]
        constant = is_constant(call) or all(operand.constant for operand in operands)
        written = _written(traced)
        if written is not None and constant:
            self._add_effect(traced, call, written)
            return
        if constant:
            self._add(traced, constant_node(call), constant=True)
            return
        if written is not None and written is not traced.args[0]:
            raise call.unknown()
        node = node_of(call, self.nodes)
        if written is not None and self.nodes[node.inputs[0]].is_constant:
            raise ArchitectureError(
                f"{where} writes over {self.nodes[node.inputs[0]].name}; compute a new tensor instead"
            )
        first = [source for source in traced.all_input_nodes if self._index(source) == node.inputs[0]]
        # What may be a view is taken for one: whether it is depends on the memory format of the images.
        view = isinstance(target, OpOverload) and any(result.alias_info for result in target._schema.returns)
        shares = written is not None or view or any(_share(source.meta.get("val"), output) for source in first)
        self._add(traced, dataclasses.replace(node, overwrites=written is not None, shares=shares))

    def _add_effect(self, traced: fx.Node, call: Call, written: fx.Node) -> None:
        """Follow what a forward writes into a buffer in training, such as a count of batches."""
        index = self._index(written)
        assert index is not None
        operation = self.nodes[index].operation
        if not (self.training and isinstance(operation, Attribute) and operation.name in operation.owner._buffers):
            raise ArchitectureError(f"{call.where} writes over {self.nodes[index].name}; compute a new tensor instead")
        self._add(traced, dataclasses.replace(constant_node(call), is_effect=True), constant=True)

    def _add(self, traced: fx.Node, node: Node, constant: bool = False) -> None:
        value = traced.meta.get("val")
        if traced.op == "get_attr":
            value = self.captured.tensors[str(traced.target)]
        # Of a tuple, such as values with their places, each part that is used is a node of its own.
        if isinstance(value, Tensor):
            (require_real if constant else require_floating)(node.name, value)
        if node.operation is not None:
            node = dataclasses.replace(node, operation=self._within(node.operation))
        self.values[traced] = Operand(len(self.nodes), constant, value)
        self.nodes.append(node)

    def _within(self, operation: Operation) -> Operation:
        if not (self.no_grad or self.autocasts) or isinstance(operation, Within | Attribute | Literal):
            return operation
        return Within(operation, self.no_grad, tuple(self.autocasts))

    def _where(self, traced: fx.Node) -> str:
        target: Any = traced.target
        name = target._schema.name.partition("::")[2] if isinstance(target, OpOverload) else target.__name__
        return f"{scope_of(traced)}.{name}()".removeprefix(".")

    def _index(self, traced: fx.Node) -> int | None:
        value = self.values.get(traced)
        return value.index if isinstance(value, Operand | Number) else None

    def _function(self, traced: fx.Node, target: Any) -> tuple[tuple[int, ...], Function]:
        """Return the nodes that a call reads, and the call with slots in their places."""
        places: list[int] = []

        def slot(source: fx.Node) -> Any:
            index = self._index(source)
            if index is None:
                return self.values[source]
            places.append(index)
            return Slot(len(places) - 1)

        args = fx.node.map_arg(traced.args, slot)
        keywords = fx.node.map_arg(traced.kwargs, slot)
        function = Function(
            target,
            tuple(_plain(argument) for argument in args),
            tuple((key, _plain(value)) for key, value in keywords.items()),
        )
        return tuple(places), function

    def _given(self, traced: fx.Node) -> dict[str, Any]:
        """Return the arguments of a call by name, those left out by default."""

        def value(source: fx.Node) -> Any:
            return self.values[source]

        args = [_plain(a) for a in fx.node.map_arg(traced.args, value)]
        keywords = {key: _plain(v) for key, v in fx.node.map_arg(traced.kwargs, value).items()}
        if traced.target is operator.getitem:
            return {"tuple": args[0], "index": args[1]}
        schema = traced.target._schema  # type: ignore[union-attr]
        given = {argument.name: argument.default_value for argument in schema.arguments}
        given.update(zip((argument.name for argument in schema.arguments), args, strict=False))
        return {**given, **keywords}


def _plain(value: Any) -> Any:
    """Make lists of what the tracer keeps as immutable ones."""
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _needed(graph: fx.Graph, returned: fx.Node) -> set[fx.Node]:
    """Find the nodes that the output rests on, and those that write into something, whoever reads it."""
    needed: set[fx.Node] = set()
    waiting = [returned, *(node for node in graph.nodes if _written(node) is not None)]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _written(node: fx.Node) -> fx.Node | None:
    """Return the argument that a call writes over, if it does."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return None
    names = [argument.name for argument in node.target._schema.arguments]
    for argument, name in zip(node.target._schema.arguments, names, strict=True):
        if argument.alias_info is not None and argument.alias_info.is_write:
            place = names.index(name)
            found = node.args[place] if place < len(node.args) else node.kwargs.get(name)
            return found if isinstance(found, fx.Node) else None
    return None


def _refuse_chance(graph: fx.Graph) -> None:
    for node in graph.nodes:
        target = node.target
        draws = isinstance(target, OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
        if draws and target.overloadpacket not in _DROPOUT:
            raise ArchitectureError("the module draws random numbers in its forward; use nn.Dropout or none at all")


def _owners(module: nn.Module) -> dict[int, tuple[nn.Module, str, str]]:
    """Find where each tensor is an attribute: its module, its name there, and its qualified name."""
    owners: dict[int, tuple[nn.Module, str, str]] = {}
    for prefix, child in module.named_modules(remove_duplicate=False):
        for held in (child._parameters, child._buffers, vars(child)):
            for key, value in held.items():
                if isinstance(value, Tensor):
                    owners.setdefault(id(value), (child, key, f"{prefix}.{key}" if prefix else key))
    return owners


def _tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(_tensors, value)))


def _share(x: Any, y: Any) -> bool:
    """Return whether a tensor, or one of several, lies in the memory of another."""
    if isinstance(y, tuple | list):
        return any(_share(x, part) for part in y)
    if isinstance(x, tuple | list):
        return any(_share(part, y) for part in x)
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.untyped_storage()._cdata == y.untyped_storage()._cdata


@contextmanager
def _in_one_line(complaint: str) -> Iterator[None]:
    try:
        yield
    except GloroFastError:
        raise
    except _FAILURES as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArchitectureError(f"{complaint}; check input_shape and what comes before it: {first}") from None
