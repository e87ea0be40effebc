"""Whether two graphs of the same module compute the same: what a change of an attribute comes to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gloro_fast.graph.node import Constants, Layer, Mapping, Node
from gloro_fast.graph.node import Joining as _Joining
from gloro_fast.graph.operations import Literal, Operation, Within


def difference(one: Sequence[Node], other: Sequence[Node]) -> str:
    """Name the first node in which two graphs differ; empty if they are the same operations on the same modules."""
    for mine, its in zip(one, other, strict=False):
        if not _same_node(mine, its):
            return its.name or "the module"
    return "" if len(one) == len(other) else "the end"


def _same_node(one: Node, other: Node) -> bool:
    if not _same_operation(one.operation, other.operation) or not _same_transfer(one.transfer, other.transfer):
        return False
    rest = [dataclasses.replace(node, operation=None, transfer=None) for node in (one, other)]
    return rest[0] == rest[1]


def _same_transfer(one: Mapping | _Joining | None, other: Mapping | _Joining | None) -> bool:
    if isinstance(one, Layer) and isinstance(other, Layer):
        return (one.input_shape, one.dtype) == (other.input_shape, other.dtype) and _same_operation(
            one.module, other.module
        )
    if type(one) is not type(other):
        return False
    if one is None or other is None:
        return True
    return all(
        _same_constants(mine, its) if isinstance(mine, Constants) and isinstance(its, Constants) else mine == its
        for mine, its in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def _same_constants(one: Constants, other: Constants) -> bool:
    return len(one.operations) == len(other.operations) and all(
        places == others and _same_operation(mine, its)
        for (mine, places), (its, others) in zip(one.operations, other.operations, strict=True)
    )


def _same_operation(one: Operation | None, other: Operation | None) -> bool:
    if one is other:
        return True
    if isinstance(one, Within) and isinstance(other, Within):
        return (
            _same_operation(one.operation, other.operation)
            and dataclasses.replace(one, operation=other.operation) == other
        )
    if isinstance(one, Literal) and isinstance(other, Literal):
        mine, its = one.value, other.value
        return mine.dtype == its.dtype and mine.shape == its.shape and torch.equal(mine.cpu(), its.cpu())
    if not isinstance(one, nn.Module) or not isinstance(other, nn.Module):
        return one == other
    # A layer of PyTorch that an operation stands for: another one at every capture, known by its settings.
    return type(one) is type(other) and type(one).__module__.startswith("torch.nn.modules.") and _alike(one, other)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    mine, its = vars(one), vars(other)
    plain = not any(isinstance(value, Tensor) for value in (*mine.values(), *its.values()))
    empty = not any(found for module in (one, other) for found in (module._parameters, module._buffers))
    return plain and empty and mine == its
