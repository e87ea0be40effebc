"""Whether two graphs of the same module compute the same: what a change of an attribute comes to."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from gloro_fast.graph.node import Layer, Node
from gloro_fast.graph.operations import Operation
from gloro_fast.plan import Plan


def same_graph(one: Plan, other: Plan) -> bool:
    """Whether both consist of the same operations on the same modules; False also where that cannot be seen."""
    return (
        one.output == other.output
        and len(one.nodes) == len(other.nodes)
        and all(map(_same_node, one.nodes, other.nodes))
    )


def _same_node(one: Node, other: Node) -> bool:
    if not _same_operation(one.operation, other.operation):
        return False
    if isinstance(one.transfer, Layer) and isinstance(other.transfer, Layer):
        transfers = one.transfer.input_shape == other.transfer.input_shape
    else:
        transfers = one.transfer == other.transfer
    rest = (dataclasses.replace(node, operation=None, transfer=None) for node in (one, other))
    return transfers and next(rest) == next(rest)


def _same_operation(one: Operation | None, other: Operation | None) -> bool:
    if one is other:
        return True
    if not isinstance(one, nn.Module) or not isinstance(other, nn.Module):
        return one == other
    # A function that a layer of PyTorch stands for: another one at every trace, known by its settings.
    return type(one) is type(other) and type(one).__module__.startswith("torch.nn.modules.") and _alike(one, other)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    mine, its = vars(one), vars(other)
    plain = not any(isinstance(value, Tensor) for value in (*mine.values(), *its.values()))
    empty = not any(found for module in (one, other) for found in (module._parameters, module._buffers))
    return plain and empty and mine == its
