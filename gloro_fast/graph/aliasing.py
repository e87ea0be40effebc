"""Refusing graphs in which a tensor is read after something wrote over it."""

from __future__ import annotations

from collections.abc import Sequence

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.node import Node


def check_overwriting(nodes: Sequence[Node], output: int) -> None:
    """Refuse in-place operations that change what another node reads, so that every node is a function of its inputs.

    Raises:
        ArchitectureError: names the operation and the reader.
    """
    # The memory of each node, by the first node that has it.
    memory: list[int] = []
    for index, node in enumerate(nodes):
        memory.append(memory[node.inputs[0]] if node.inputs and (node.shares or node.overwrites) else index)
    for index, node in enumerate(nodes):
        if not node.overwrites:
            continue
        source = nodes[memory[index]]
        if source.operation is None or source.is_constant:
            what = "the images that the net is given" if source.operation is None else source.name
            raise ArchitectureError(f"{node.name} writes over {what}; set inplace=False, or compute a new tensor")
        gone = {earlier for earlier in range(index) if memory[earlier] == memory[index]}
        later = [(reader.name, reader.inputs) for reader in nodes[index + 1 :]]
        for reader, inputs in [*later, ("the output", (output,))]:
            lost = gone.intersection(inputs)
            if lost:
                raise ArchitectureError(
                    f"{node.name} writes over {nodes[min(lost)].name}, which {reader} reads afterwards; set "
                    "inplace=False, or compute a new tensor"
                )
