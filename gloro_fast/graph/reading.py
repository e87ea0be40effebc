"""Turning a traced graph into nodes with rules, by trying it on two small batches of zeros."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.utils import parametrize

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.call import BATCH, BATCHES, Call, Operand
from gloro_fast.graph.functions import constant_node, is_known, is_query, node_of
from gloro_fast.graph.node import Layer, Node
from gloro_fast.graph.operations import Attribute, Literal, is_order_preserving
from gloro_fast.graph.tracing import ROOT, Root
from gloro_fast.nn.integrity import check_weight
from gloro_fast.nn.real import require_floating, require_real

# What torch, or a rule, raises when settings or shapes do not fit.
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError, ArithmeticError)


class _DependsOnBatch:
    """A number that is neither fixed nor the number of images."""


class _Value:
    """What a traced node gave for the two batches, and the node that was made of it, if it is a tensor."""

    def __init__(self, tried: tuple[Any, Any], index: int | None = None, constant: bool = False) -> None:
        self.tried = tried
        self.index = index
        self.constant = constant

    def argument(self) -> Any:
        """Give it as an argument of a :class:`Call`."""
        small = self.tried[0]
        if self.index is None:
            return _fold(*self.tried)
        shape = tuple(small.shape) if isinstance(small, Tensor) else ()
        return Operand(self.index, self.constant, shape if self.constant else shape[1:], small)


def read(graph: fx.Graph, root: Root, x: Tensor) -> tuple[tuple[Node, ...], int]:
    """Make the nodes of a traced graph.

    Args:
        graph: from :func:`gloro_fast.graph.tracing.trace`.
        root: likewise, its layers in evaluation mode.
        x: one image, (1, *input_shape), of the dtype and on the device of the network.

    Returns:
        The nodes in order of execution, the input first, and the index of the logits.

    Raises:
        UnknownLayerError, ArchitectureError: name the node.
    """
    reader = _Reader(root, x)
    with torch.no_grad():
        for traced in graph.nodes:
            if traced.op == "output":
                return tuple(reader.nodes), reader.output(traced.args[0])
            reader.read(traced)
    raise AssertionError("a traced graph ends in its output")


class _Reader:
    def __init__(self, root: Root, x: Tensor) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, _Value] = {}
        self.batches = (x.new_zeros(BATCHES[0], *x.shape[1:]), x.new_zeros(BATCHES[1], *x.shape[1:]))

    def read(self, traced: fx.Node) -> None:
        """Try one traced node and make a node of it where it gives a tensor."""
        if traced.op == "placeholder":
            self._add(traced, self.batches, Node("input", None, shape=tuple(self.batches[0].shape[1:])))
        elif traced.op == "get_attr":
            self._read_attribute(traced)
        elif traced.op == "call_module":
            self._read_layer(traced)
        else:
            self._read_call(traced)

    def output(self, returned: Any) -> int:
        """Find the node of the logits, and refuse what are none."""
        value = self.values[returned] if isinstance(returned, fx.Node) else None
        result = value.tried[0] if value is not None else returned
        if isinstance(result, tuple | list | dict):
            raise ArchitectureError(
                f"the module returns {len(result)} outputs; a GloRo net needs one, the logits (B, m)"
            )
        if value is None or value.index is None or value.constant:
            raise ArchitectureError("the module returns what does not depend on its input; return the logits (B, m)")
        if result.ndim != 2:
            raise ArchitectureError(f"the module gives {tuple(result.shape)}; logits must be (B, m), so add a Flatten")
        if result.shape[1] < 2:
            raise ArchitectureError(
                f"the module gives {result.shape[1]} logit a row; a classifier needs at least 2 classes"
            )
        return value.index

    def _read_attribute(self, traced: fx.Node) -> None:
        owner_name, _, name = str(traced.target).rpartition(".")
        owner = self.root.get_submodule(owner_name)
        value = getattr(owner, name)
        if not isinstance(value, Tensor):
            self.values[traced] = _Value((value, value))
            return
        shown = str(traced.target).removeprefix(ROOT).removeprefix(".")
        operation = Literal(value) if owner is self.root else Attribute(owner, name)
        self._add(traced, (value, value), Node(shown, operation, shape=tuple(value.shape)), constant=True)

    def _read_layer(self, traced: fx.Node) -> None:
        name, module = traced.meta["name"], traced.meta["layer"]
        if isinstance(module, parametrize.ParametrizationList):
            value = module()
            self._add(traced, (value, value), Node(name, module, shape=tuple(value.shape)), constant=True)
            return
        where = f"{name or 'the module'} ({type(module).__name__})"
        given = [self.values[node].argument() for node in traced.all_input_nodes]
        only = given[0] if len(given) == 1 and traced.args == (traced.all_input_nodes[0],) else None
        if not isinstance(only, Operand) or only.constant or not isinstance(only.value, Tensor):
            raise ArchitectureError(
                f"{where} is not called with one tensor of the network, which is all its rule knows"
            )
        layer = Layer(name, module, only.shape)
        complaint = f"{where} does not take its input of shape {only.shape}"
        with _in_one_line(complaint):
            try:
                check_weight(name, layer.rule())
            except ArithmeticError:
                # Settings such as a stride of 0, which the layer itself has words for.
                self._try(complaint, module, traced)
                raise
        version = only.value._version
        tried = self._try(complaint, module, traced)
        # A layer of a user's own may write over its input without saying so.
        overwrites = getattr(module, "inplace", False) is True or only.value._version != version
        shares = overwrites or is_order_preserving(module) or _share(given[0].value, tried[0])
        node = Node(name, module, (only.index,), layer, _shape(where, tried), overwrites, shares)
        self._add(traced, tried, node)

    def _read_call(self, traced: fx.Node) -> None:
        function: Any = traced.target
        short = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        where = f"{traced.meta['scope']}.{short}()".removeprefix(".")
        values = [self.values[node] for node in traced.all_input_nodes]
        called: Any = getattr(torch.Tensor, function, None) if isinstance(function, str) else function
        if any(value.index is not None for value in values) and not is_query(function):
            self._read_tensor_call(traced, called, Call(where, function, (), {}, None))
            return
        # Of numbers, or asking a tensor for its shape.
        tried = self._try(f"{where} fails", called, traced)
        if isinstance(tried[0], Tensor):
            raise Call(where, function, (), {}, None).unknown()
        self.values[traced] = _Value(tried)

    def _read_tensor_call(self, traced: fx.Node, called: Callable[..., Any], call: Call) -> None:
        constant = all(
            value.constant for node in traced.all_input_nodes if (value := self.values[node]).index is not None
        )
        # Before it is tried: it might write into a parameter.
        if not is_known(call.function, constant):
            raise call.unknown()
        versions = [value.tried[0]._version for value in self._tensors(traced)]
        known = [(read, self.values[read]) for read in traced.all_input_nodes]
        copies = {read: value.tried[0].clone() for read, value in known if value.constant}
        tried = self._try(f"{call.where} fails", called, traced, copies)
        for read, value in known:
            if read in copies and copies[read]._version:
                assert value.index is not None
                written = self.nodes[value.index].name
                raise ArchitectureError(f"{call.where} writes over {written}; compute a new tensor instead")
        overwrites = [value.tried[0]._version for value in self._tensors(traced)] != versions
        arguments = fx.node.map_arg((traced.args, traced.kwargs), lambda node: self.values[node].argument())
        call = Call(call.where, call.function, *arguments, tried[0])
        if constant:
            self._add(traced, tried, constant_node(call), constant=True)
            return
        if isinstance(tried[0], Tensor):
            _shape(call.where, tried)
        node = node_of(call, self.nodes)
        first = [value.tried[0] for value in self._tensors(traced) if value.index == node.inputs[0]]
        shares = node.shares or any(_share(x, tried[0]) for x in first)
        self._add(traced, tried, dataclasses.replace(node, overwrites=node.overwrites or overwrites, shares=shares))

    def _tensors(self, traced: fx.Node) -> list[_Value]:
        values = [self.values[node] for node in traced.all_input_nodes]
        return [value for value in values if isinstance(value.tried[0], Tensor)]

    def _add(self, traced: fx.Node, tried: tuple[Any, Any], node: Node, constant: bool = False) -> None:
        for value in tried[0] if isinstance(tried[0], tuple | list) else tried[:1]:
            (require_real if constant else require_floating)(node.name, value)
        self.values[traced] = _Value(tried, len(self.nodes), constant)
        self.nodes.append(node)

    def _try(
        self,
        complaint: str,
        function: Callable[..., Any],
        traced: fx.Node,
        copies: Mapping[fx.Node, Tensor] = MappingProxyType({}),
    ) -> tuple[Any, Any]:
        """Call the function as traced with both batches. What it may overwrite is zeros, and only shapes count.

        Args:
            complaint: the beginning of the error.
            function: what to call.
            traced: with these arguments.
            copies: what to pass in place of parameters, which it may overwrite too.
        """
        results = []
        for which in range(len(BATCHES)):
            args, keywords = fx.node.map_arg(
                (traced.args, traced.kwargs),
                lambda node: copies[node] if node in copies else self.values[node].tried[which],  # noqa: B023
            )
            with _in_one_line(complaint):
                results.append(function(*args, **keywords))
        return results[0], results[1]


def _fold(small: Any, large: Any) -> Any:
    if isinstance(small, tuple) and isinstance(large, tuple) and len(small) == len(large):
        return tuple(_fold(a, b) for a, b in zip(small, large, strict=True))
    if (small, large) == BATCHES:
        return BATCH
    return small if type(small) is type(large) and small == large else _DependsOnBatch()


def _shape(where: str, tried: tuple[Tensor, Tensor]) -> tuple[int, ...]:
    """Give the shape of the output without the batch; refuse one that is not made image by image."""
    for images, result in zip(BATCHES, tried, strict=True):
        if not isinstance(result, Tensor) or result.ndim == 0:
            raise ArchitectureError(f"{where} gives {result!r:.40}; a layer must give one tensor for a batch")
        if len(result) != images:
            raise ArchitectureError(f"{where} makes {len(result)} images of {images}; leave the batch as it is")
    shapes = {tuple(result.shape[1:]) for result in tried}
    if len(shapes) != 1:
        raise ArchitectureError(f"{where} gives images of a shape that depends on the batch; leave the batch alone")
    return shapes.pop()


def _share(x: Tensor, y: Any) -> bool:
    return isinstance(y, Tensor) and x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


@contextmanager
def _in_one_line(complaint: str) -> Iterator[None]:
    try:
        yield
    except GloroFastError:
        raise
    except _FAILURES as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArchitectureError(f"{complaint}; check input_shape and what comes before it: {first}") from None
