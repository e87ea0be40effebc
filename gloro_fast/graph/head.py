"""The last layer of a graph, where it is dense: margins then use the distances of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.node import Layer, Node
from gloro_fast.graph.operations import is_order_preserving
from gloro_fast.nn.rules import is_dense


def find_head(nodes: Sequence[Node], output: int) -> int | None:
    """Find the dense layer that gives the logits, at the end or with nothing but reshapes behind it.

    Returns:
        its node, or None if the graph ends in something else.

    Raises:
        ArchitectureError: its parameters are another layer's as well.
    """
    index = output
    while (operation := nodes[index].operation) is not None and is_order_preserving(operation):
        index = nodes[index].inputs[0]
    transfer = nodes[index].transfer
    if not isinstance(transfer, Layer) or not is_dense(transfer.module):
        return None
    assert isinstance(transfer.module, nn.Linear)
    if nodes[index].shape[-1] != nodes[output].shape[0]:
        # Several rows of outputs side by side: the logits are no rows of one weight.
        return None
    _check_unshared(nodes, index)
    return index


def _check_unshared(nodes: Sequence[Node], head: int) -> None:
    """Refuse a head whose parameters are another layer's as well: margins treat its rows as its own."""
    transfer = nodes[head].transfer
    assert isinstance(transfer, Layer)
    own = [_memory(parameter) for parameter in transfer.module.parameters() if parameter.numel()]
    for index, node in enumerate(nodes):
        if index == head or not isinstance(node.transfer, Layer):
            continue
        for name, parameter in node.transfer.module.named_parameters():
            storage, first, last = _memory(parameter)
            if any(storage == theirs and first < end and start < last for theirs, start, end in own):
                raise ArchitectureError(
                    f"{node.name}.{name} is also a parameter of the head {transfer.name}; give the head its own"
                )


def _memory(tensor: Tensor) -> tuple[int, int, int]:
    """Give the storage of ``tensor`` and the bytes of it that it spans."""
    start = tensor.storage_offset() * tensor.itemsize
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().data_ptr(), int(start), int(start + extent * tensor.itemsize)
