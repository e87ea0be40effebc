"""The last layer of a graph, where it is dense: margins then use its rows, also with something behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast import ops
from gloro_fast.bounds.head_differences import scaled_difference_bounds
from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.node import Joining, Layer, Mapping, Node, Times, Weighted
from gloro_fast.graph.operations import is_order_preserving
from gloro_fast.ops.head_difference_bounds_op import head_difference_bounds
from gloro_fast.rules.registry import KINDS, Diagonal, LinearMap, LipschitzConstant, is_dense, traits_of


@dataclass(frozen=True)
class Head:
    """A dense layer w_i h and what follows it, each logit for itself: logit i is g_i(w_i h), of slope at most c_i.

    With rows a_i = c_i w_i and K the constant of h, f_i - f_j moves at most K_ij = K D_ij times as far as the input:

    - where all that follows multiplies by numbers c_i, D_ij = ||a_i - a_j||, exactly as without it;
    - else the gradient of f_i - f_j is s a_i - t a_j for some s, t in [-1, 1], whose norm is largest at a corner:
      D_ij = max(||a_i - a_j||, ||a_i + a_j||). It is at most ||a_i|| + ||a_j||, the sum of the logits' own constants,
      and at most sqrt(2) times the norm of all rows, which is what a net that ends otherwise must use.

    Attributes:
        node: the index of the dense layer.
        dense: that layer.
        tail: what follows it, but for reshapes, each with the shape that it acts on.
    """

    node: int
    dense: Layer | Weighted
    tail: tuple[tuple[Mapping, tuple[int, ...]], ...] = ()

    @property
    def is_linear(self) -> bool:
        """Whether all that follows multiplies by numbers."""
        return all(_scales(mapping) for mapping, _ in self.tail)

    @property
    def form(self) -> str:
        """Say which constants margins have."""
        rows = f"w_i the rows of {self.dense.name or 'the module'}"
        if not self.tail:
            return f"K_ij = K ||w_i - w_j||, {rows}"
        names = ", ".join(mapping.name or "the module" for mapping, _ in self.tail)
        if self.is_linear:
            return f"K_ij = K ||w_i - w_j||, {rows} as scaled by {names}"
        return f"K_ij = K max ||w_i +- w_j|| <= K_i + K_j, {rows} times the slopes of {names}"

    def weight(self) -> Tensor:
        """Return the rows w_i, (m, d)."""
        rule = self.dense.rule()
        assert isinstance(rule, LinearMap)
        return rule.weight

    def kind(self) -> str:
        """Return the weakest kind among the constants of what follows."""
        rules = [mapping.rule() for mapping, _ in self.tail]
        kinds = [rule.kind for rule in rules if isinstance(rule, LipschitzConstant)]
        return max(kinds, key=KINDS.index, default="exact")

    def difference_bounds(self) -> Tensor:
        """Return float64 (m, m) numbers >= D_ij for the present weights, zero on the diagonal."""
        if not self.tail:
            return head_difference_bounds(self.weight())
        weight = self.weight()
        factors = [_spread(factor, len(weight), weight.device) for factor in self._factors()]
        return scaled_difference_bounds(weight, factors, self.is_linear)

    def differences(self, weight: Tensor | None = None) -> Tensor:
        """Return D for training, (m, m), differentiable, rounded to nearest.

        Args:
            weight: what stands for the weight.
        """
        rows = self.weight() if weight is None else weight
        for factor in self._factors():
            rows = rows * (factor[:, None].to(rows.dtype) if isinstance(factor, Tensor) and factor.ndim else factor)
        if self.is_linear:
            return ops.head_differences(rows)
        count = len(rows)
        both = ops.head_differences(torch.cat([rows, -rows]))[:count]
        own = torch.eye(count, dtype=torch.bool, device=both.device)
        return torch.maximum(both[:, :count], both[:, count:]).masked_fill(own, 0.0)

    def _factors(self) -> list[float | Tensor]:
        """Return the c_i of each map that follows: one for all, or (m,)."""
        factors: list[float | Tensor] = []
        for mapping, shape in self.tail:
            rule = mapping.rule()
            if isinstance(mapping, Times):
                factors.append(mapping.number)
            elif isinstance(rule, Diagonal):
                factors.append(rule.scale.expand(shape).flatten())
            else:
                assert isinstance(rule, LipschitzConstant)
                factors.append(rule.factor)
        return factors


def find_head(nodes: Sequence[Node], output: int) -> Head | None:
    """Find the dense layer that gives the logits, with nothing behind it but what acts on each logit alone.

    Returns:
        It, or None if the graph ends in something else, or if something follows a layer that shares a parameter.

    Raises:
        ArchitectureError: nothing but reshapes follows, and its parameters are another layer's as well.
    """
    index = output
    tail: list[tuple[Mapping, tuple[int, ...]]] = []
    while not _is_dense(nodes[index]):
        node = nodes[index]
        if node.operation is None or node.transfer is None:
            return None
        (index, *others) = [place for place in node.inputs if not nodes[place].is_constant]
        if others:
            return None
        if not is_order_preserving(node.operation):
            follows = _follows(node.transfer)
            if follows is None or node.shape != nodes[index].shape:
                return None
            tail.insert(0, (follows, node.shape))
    if math.prod(nodes[index].shape) != nodes[index].shape[-1]:
        # Several rows of outputs side by side: the logits are no rows of one weight.
        return None
    shared = _shared(nodes, index)
    if shared and tail:
        return None
    if shared:
        raise ArchitectureError(shared)
    dense = nodes[index].transfer
    assert isinstance(dense, Layer | Weighted)
    return Head(index, dense, tuple(tail))


def _is_dense(node: Node) -> bool:
    transfer = node.transfer
    if isinstance(transfer, Layer):
        return is_dense(transfer.module)
    return isinstance(transfer, Weighted) and transfer.geometry.is_dense


def _follows(transfer: Mapping | Joining) -> Mapping | None:
    """Return the map if it acts on each element alone."""
    if isinstance(transfer, Joining):
        # A sum with constants.
        return Times(transfer.name, transfer.numbers[0]) if len(transfer.numbers) == 1 else None
    if isinstance(transfer, Times):
        return transfer
    rule = transfer.rule()
    acts_alone = isinstance(rule, Diagonal) or (isinstance(rule, LipschitzConstant) and rule.per_element)
    return transfer if acts_alone else None


def _scales(mapping: Mapping) -> bool:
    if isinstance(mapping, Layer) and traits_of(mapping.module).scales:
        return True
    return isinstance(mapping, Times) or isinstance(mapping.rule(), Diagonal)


def _spread(factor: float | Tensor, count: int, device: torch.device) -> Tensor:
    return torch.as_tensor(factor, dtype=torch.float64, device=device).detach().expand(count)


def _shared(nodes: Sequence[Node], head: int) -> str | None:
    """Complain of a head whose parameters are another layer's as well: margins treat its rows as its own."""
    transfer = nodes[head].transfer
    if not isinstance(transfer, Layer):
        return None
    own = [_memory(parameter) for parameter in transfer.module.parameters() if parameter.numel()]
    for index, node in enumerate(nodes):
        if index == head or not isinstance(node.transfer, Layer):
            continue
        for name, parameter in node.transfer.module.named_parameters():
            storage, first, last = _memory(parameter)
            if any(storage == theirs and first < end and start < last for theirs, start, end in own):
                return f"{node.name}.{name} is also a parameter of the head {transfer.name}; give the head its own"
    return None


def _memory(tensor: Tensor) -> tuple[int, int, int]:
    """Return the storage of ``tensor`` and the bytes of it that it spans."""
    start = tensor.storage_offset() * tensor.itemsize
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    # Not its address, which is 0 for all on the meta device.
    return tensor.untyped_storage()._cdata, int(start), int(start + extent * tensor.itemsize)
