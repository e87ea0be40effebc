"""Linear operations that are bounded as one: a sum of branches, BatchNorm and numbers beside a linear layer.

The norm of the whole is at most the sum or product of the parts' norms, and mostly far below: a residual block
x + conv(x) is one convolution with 1 added to its middle tap (the linear residual block of LiResNet, Hu et al. 2023).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.graph.kernels import Convert, Kernel
from gloro_fast.graph.node import Joining, Layer, Mapping, Node, Times, Weighted
from gloro_fast.rounding import SMALLEST
from gloro_fast.rules.registry import Diagonal, Knowledge, LinearMap, traits_of


@dataclass(frozen=True)
class Sum:
    """A sum of linear maps of the same input, each a sequence of parts, times numbers."""

    terms: tuple[tuple[float, tuple[Part, ...]], ...]


Part = Mapping | Sum


@dataclass(frozen=True)
class Merged:
    """Linear operations that make one linear map, of which at most one in each branch is no diagonal map.

    Attributes:
        name: for messages.
        parts: the operations in order of execution.
        input_shape: shape of the input without the batch.
    """

    name: str
    parts: tuple[Part, ...]
    input_shape: tuple[int, ...]

    def rule(self) -> Knowledge:
        """Return the linear map, its weight a differentiable function of the parts' weights, in their type."""
        kernel = _fold(self.parts, self.input_shape, _as_it_is)
        assert kernel is not None
        assert kernel.linear is not None
        return kernel.linear

    def certified_rule(self) -> Knowledge:
        """Return the linear map in float64, with a bound on the norm of what rounding may have changed in it.

        Each entry is a sum of products of at most n numbers, n the operations in ``parts``, each number and each step
        within a relative 2^-50: off by at most 2 n 2^-50 times the same sum of absolute values (n 2^-50 < 1/2), and
        by the smallest normal number for each step that underflows. A convolution's norm is at most the sum of
        its weight's absolute values, since each entry alone moves images without making them longer.
        """
        exact, size = (_fold(self.parts, self.input_shape, convert) for convert in (_widened, _magnitude))
        assert exact is not None
        assert size is not None
        assert exact.linear is not None
        assert size.linear is not None
        steps = _count(self.parts)
        total = float(size.linear.weight.sum()) * (1 + 2.0**-20)
        error = math.nextafter(total * steps * 2.0**-49, math.inf) + steps * exact.linear.weight.numel() * SMALLEST
        return dataclasses.replace(exact.linear, error=error)


def mergeable(nodes: Sequence[Node], kinds: Sequence[Knowledge | None]) -> dict[int, tuple[int, Merged]]:
    """Find the nodes that are linear maps of several parts of an earlier node.

    Args:
        nodes: the nodes of a graph.
        kinds: what the rule of each says now, None for those without.

    Returns:
        for each such node, the index of the earlier one and the map between them.
    """
    # For each node: from which earlier nodes it is a linear map with at most one weight, and by which parts.
    chains: list[dict[int, tuple[Part, ...]]] = []
    found: dict[int, tuple[int, Merged]] = {}
    for index, node in enumerate(nodes):
        chains.append({index: ()})
        if node.is_constant or node.transfer is None:
            continue
        inputs = [i for i in node.inputs if not nodes[i].is_constant]
        if isinstance(node.transfer, Joining):
            options = _sums(node, inputs, nodes, chains)
        else:
            options = _continued(node.transfer, kinds[index], inputs[0], chains, found)
        for source in sorted(options):
            parts = options[source]
            if not _is_worth_it(parts):
                chains[index][source] = parts
            # A BatchNorm over tokens beside a dense layer over features has its numbers elsewhere.
            elif _fits(parts, nodes[source].shape):
                chains[index][source] = parts
                found.setdefault(index, (source, Merged(node.name, parts, nodes[source].shape)))
    return found


def _continued(
    transfer: Mapping,
    known: Knowledge | None,
    before: int,
    chains: list[dict[int, tuple[Part, ...]]],
    found: dict[int, tuple[int, Merged]],
) -> dict[int, tuple[Part, ...]]:
    """What ``transfer`` makes of the chains that end in its input."""
    if isinstance(transfer, Times) or (isinstance(known, Diagonal) and known.of_channels):
        return {source: (*parts, transfer) for source, parts in chains[before].items()}
    if isinstance(known, LinearMap) and _is_plain(transfer):
        # A BatchNorm that the layer before it took in is not taken in a second time.
        free = {source: parts for source, parts in chains[before].items() if not _weighs(parts)}
        if before in found:
            free = {before: ()}
        return {source: (*parts, transfer) for source, parts in free.items()}
    return {}


def _sums(
    node: Node, inputs: list[int], nodes: Sequence[Node], chains: list[dict[int, tuple[Part, ...]]]
) -> dict[int, tuple[Part, ...]]:
    """What a sum is a linear map of: the earlier nodes that all of its terms are linear maps of."""
    assert isinstance(node.transfer, Joining)
    numbers = node.transfer.numbers
    if len(numbers) != len(inputs):
        return {}
    common = set.intersection(*(set(chains[i]) for i in inputs))
    options: dict[int, tuple[Part, ...]] = {}
    for source in common:
        part = Sum(tuple((number, chains[i][source]) for number, i in zip(numbers, inputs, strict=True)))
        if _fits((part,), nodes[source].shape):
            options[source] = (part,)
    return options


def _fits(parts: Sequence[Part], shape: tuple[int, ...]) -> bool:
    """Return whether the whole is one layer."""
    with torch.no_grad():
        return _fold(parts, shape, _as_it_is) is not None


def _is_plain(transfer: Mapping) -> bool:
    """Return whether the map is the very convolution or product that its weight and geometry describe."""
    if isinstance(transfer, Layer):
        module = transfer.module
        return traits_of(module).is_its_map and getattr(module, "padding_mode", "zeros") == "zeros"
    return isinstance(transfer, Weighted) and not transfer.transposed


def _weighs(parts: Sequence[Part]) -> bool:
    """Return whether there is a layer with a weight among the parts."""
    return any(
        any(_weighs(inner) for _, inner in part.terms)
        if isinstance(part, Sum)
        else isinstance(part, Layer | Weighted) and _is_plain(part)
        for part in parts
    )


def _is_worth_it(parts: Sequence[Part]) -> bool:
    """Return whether the whole may be less than its parts: not for one layer, or one with numbers beside it."""
    if not _weighs(parts):
        return False
    return sum(not isinstance(part, Times) for part in parts) > 1 or any(isinstance(part, Sum) for part in parts)


def _fold(parts: Sequence[Part], shape: tuple[int, ...], convert: Convert) -> Kernel | None:
    """Return the kernel of the whole, None where there is none: the branches do not fit on each other."""
    kernel: Kernel | None = Kernel(shape)
    for part in parts:
        if kernel is None:
            return None
        if isinstance(part, Sum):
            kernel = _fold_sum(part, shape, convert)
        elif isinstance(part, Times):
            if part.number != 1.0:
                kernel = kernel.scaled(convert(torch.tensor([part.number], dtype=torch.float64)))
        else:
            known = part.rule()
            if isinstance(known, Diagonal):
                kernel = kernel.scaled(convert(known.scale))
            else:
                assert isinstance(known, LinearMap)
                kernel = kernel.through(LinearMap(convert(known.weight), known.geometry))
    return kernel


def _fold_sum(part: Sum, shape: tuple[int, ...], convert: Convert) -> Kernel | None:
    total: Kernel | None = None
    for number, inner in part.terms:
        term = _fold(inner, shape, convert)
        if term is not None and number != 1.0:
            term = term.scaled(convert(torch.tensor([number], dtype=torch.float64)))
        if term is None:
            return None
        total = term if total is None else total.plus(term)
        if total is None:
            return None
    return total


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _magnitude(tensor: Tensor) -> Tensor:
    return tensor.detach().double().abs()


def _count(parts: Sequence[Part]) -> int:
    """Count the operations, each sum, product and number among them."""
    return 1 + sum(sum(2 + _count(inner) for _, inner in part.terms) if isinstance(part, Sum) else 2 for part in parts)
