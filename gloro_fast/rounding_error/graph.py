"""The graph as it is executed: a state a node, where linear operations that were bounded as one add up as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.bounds import DEFAULT_METHOD, NetworkBound, bound_network
from gloro_fast.graph.merging import Merged
from gloro_fast.graph.node import Joining, Node
from gloro_fast.graph.operations import Within
from gloro_fast.graph.plan import Plan
from gloro_fast.rounding import add_up, product_up, root_sum_squares_up
from gloro_fast.rounding_error.arithmetic import Arithmetic
from gloro_fast.rounding_error.functions import step_of, unbounded
from gloro_fast.rounding_error.state import Off, State, Step, within


@dataclass(frozen=True)
class Place:
    """A node that no constant is.

    Attributes:
        node: its index.
        inputs: those of the nodes that it reads, but for constants.
        step: what executes it.
        lipschitz: a Lipschitz constant of the map from the images to it.
        source, constant: an earlier node and a Lipschitz constant of the map from there, where it is linear and that
            is less than what follows from the operations between; None where nothing is known of it.
    """

    node: int
    inputs: tuple[int, ...]
    step: Step
    lipschitz: float
    source: int | None = None
    constant: float = 0.0

    def joined(self, constants: Sequence[float]) -> float:
        """Return the Lipschitz constant that follows from those of its inputs."""
        terms = [product_up(pair) for pair in zip(self.step.factors, constants, strict=True)]
        return root_sum_squares_up(*terms) if self.step.stacked else add_up(*terms)

    def off(self, inputs: Sequence[Off]) -> Off:
        """Return how far it is off for what its inputs are, its own rounding apart."""
        parts = [off * factor for factor, off in zip(self.step.factors, inputs, strict=True)]
        if self.step.stacked:
            return Off.beside(parts)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


@dataclass(frozen=True)
class ExecutedGraph:
    """All nodes before the head in order of execution.

    How far a node is off follows from its inputs and its own rounding. Where several linear operations were bounded as
    one map M from an earlier node s, its norm bounds what becomes of that node's deviation, and the operations between
    count with the rounding that begins with them alone: D <= ||M|| D_s + E, with E the same recursion from 0 at s.
    Norms of a convolution and of the BatchNorm behind it multiply to more than that of both.

    Attributes:
        places: one a node.
        output: the node before the head, or that of the logits.
        arithmetic: the program's.
    """

    places: tuple[Place, ...]
    output: int
    arithmetic: Arithmetic

    @classmethod
    def of(cls, plan: Plan, bound: NetworkBound, arithmetic: Arithmetic) -> ExecutedGraph:
        """Look at every node that the head, or the logits, rest on.

        Raises:
            ArchitectureError: it is not known how a node rounds; names it.
        """
        target = plan.output if plan.head is None else plan.nodes[plan.head.node].inputs[0]
        _refuse_autocast(plan.nodes, plan.output)
        found = list(zip(plan.composition.ends, plan.parts, bound.layers, strict=True))
        merged = {end: (source, layer.value) for (source, end), part, layer in found if isinstance(part, Merged)}
        alone = {end: layer.value for (_, end), part, layer in found if not isinstance(part, Merged)}
        places: dict[int, Place] = {}
        lipschitz = {0: 1.0}
        for index in sorted(_needed(plan.nodes, target)):
            node = plan.nodes[index]
            inputs = tuple(i for i in node.inputs if not plan.nodes[i].is_constant)
            constant = alone[index] if index in alone else _constant(node)
            place = Place(index, inputs, step_of(plan.nodes, index, constant, arithmetic), 0.0)
            own = place.joined([lipschitz[i] for i in inputs])
            if index in merged:
                source, value = merged[index]
                places[index] = place
                if value < _between(places, source, index):
                    place = dataclasses.replace(place, source=source, constant=value)
                own = min(own, product_up([value, lipschitz[source]]))
            lipschitz[index] = own
            places[index] = dataclasses.replace(place, lipschitz=own)
        return cls(tuple(places.values()), target, arithmetic)

    def __call__(self, x: Tensor) -> State:
        """Execute the nodes on a batch."""
        states = {0: State.of_images(x)}
        offs, roundings = {0: states[0].off}, {}
        by_node = {place.node: place for place in self.places}
        last_use = {source: place.node for place in self.places for source in place.inputs}
        for place in self.places:
            inputs = [states[i] for i in place.inputs]
            applied = place.step(*inputs)
            roundings[place.node] = applied.rounding
            if place.source is None:
                off = place.off([offs[i] for i in place.inputs]) + applied.rounding
            else:
                off = offs[place.source] * place.constant + _off_since(by_node, roundings, place.source, place.node)
            limit = inputs[0].limit
            for state in inputs[1:]:
                limit = torch.minimum(limit, state.limit)
            if applied.magnitude is not None:
                limit = within(limit, applied.magnitude, self.arithmetic)
            states[place.node] = State(applied.value, off, place.lipschitz, limit)
            offs[place.node] = off
            for source in set(place.inputs):
                if last_use[source] == place.node:
                    del states[source]
        return states[self.output]


def _off_since(places: dict[int, Place], roundings: dict[int, Off], source: int, node: int) -> Off:
    """Return how far ``node`` is off where ``source`` is exact."""
    found = {source: Off.none(roundings[node].error)}
    for index in sorted(_since(places, source, node)):
        place = places[index]
        found[index] = place.off([found[i] for i in place.inputs]) + roundings[index]
    return found[node]


def _between(places: dict[int, Place], source: int, node: int) -> float:
    """Return the Lipschitz constant of the map between two nodes that follows from the operations."""
    found = {source: 1.0}
    for index in sorted(_since(places, source, node)):
        found[index] = places[index].joined([found[i] for i in places[index].inputs])
    return found[node]


def _since(places: dict[int, Place], source: int, node: int) -> set[int]:
    """Find the nodes between ``source``, which all paths to ``node`` lead through, and ``node``, which is one."""
    needed, waiting = set(), [node]
    while waiting:
        index = waiting.pop()
        if index != source and index not in needed:
            needed.add(index)
            waiting += places[index].inputs
    return needed


def _needed(nodes: Sequence[Node], target: int) -> set[int]:
    """Find the nodes that ``target`` rests on, but constants and the input."""
    needed, waiting = set(), [target]
    while waiting:
        index = waiting.pop()
        if index not in needed and index != 0 and not nodes[index].is_constant:
            needed.add(index)
            waiting += nodes[index].inputs
    return needed


def _constant(node: Node) -> float:
    """Bound a node that the net's bound counts as part of another one, by the method that takes seconds at most."""
    transfer = node.transfer
    if transfer is None or isinstance(transfer, Joining):
        return 1.0
    return bound_network([(node.name, transfer.rule())], DEFAULT_METHOD).lipschitz


def _refuse_autocast(nodes: Sequence[Node], output: int) -> None:
    for index in sorted(_needed(nodes, output)):
        operation = nodes[index].operation
        if isinstance(operation, Within) and any(enabled for *_, enabled in operation.autocasts):
            raise unbounded(f"{nodes[index].name} under autocast")
