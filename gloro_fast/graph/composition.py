"""From the constants of the parts to the constant of the whole, along the graph.

The constant of a node is that of the map from the input of the network to it: a product along a sequence, a sum
where branches are added, and the root of the sum of squares where they lie side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gloro_fast.graph.merging import Merged
from gloro_fast.graph.node import Joining, Mapping, Node
from gloro_fast.ops.product import product
from gloro_fast.rounding import add_up, product_up, root_sum_squares_up


@dataclass(frozen=True)
class Product:
    """The constant of a node: that of an earlier one times those of parts.

    Attributes:
        source: the number of the earlier value.
        parts: the numbers of the parts.
    """

    source: int
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Join:
    """The constant of a sum or of tensors side by side.

    Attributes:
        sources: the numbers of the earlier values.
        factors: what each is multiplied by.
        stacked: root of the sum of squares, else sum.
    """

    sources: tuple[int, ...]
    factors: tuple[float, ...]
    stacked: bool


@dataclass(frozen=True)
class Composition:
    """How the constant of a node is composed of those of parts.

    Attributes:
        parts: the layers and functions, merged ones as one.
        steps: the values computed one after the other; value 0 is that of the input, 1, and step i gives value i + 1.
        ends: for each part the nodes that it leads from and to.
    """

    parts: tuple[Mapping | Merged, ...]
    steps: tuple[Product | Join, ...]
    ends: tuple[tuple[int, int], ...]

    @cached_property
    def is_sequence(self) -> bool:
        """Whether it is the product of the constants of all parts."""
        return self.steps == (Product(0, tuple(range(len(self.parts)))),)

    def bound(self, constants: Sequence[float]) -> float:
        """Compose upper bounds: a float >= the real result.

        Args:
            constants: upper bounds >= 0 on the constants of ``parts``.
        """
        values = [1.0]
        for step in self.steps:
            if isinstance(step, Product):
                values.append(product_up([values[step.source], *(constants[part] for part in step.parts)]))
            else:
                terms = [product_up([values[s], f]) for s, f in zip(step.sources, step.factors, strict=True)]
                values.append(root_sum_squares_up(*terms) if step.stacked else add_up(*terms))
        return values[-1]

    def estimate(self, factors: Sequence[float | Tensor], which: Sequence[int], found: Tensor) -> Tensor:
        """Compose differentiable constants; on a GPU nothing waits for it or is copied from the host.

        Args:
            factors: the constants of ``parts``, numbers or scalars; those in ``found`` are multiplied by theirs.
            which: the parts that have their constant in ``found``, in order.
            found: (len(which),) the others, differentiable.

        Returns:
            scalar of the type of ``found``.
        """
        place = {part: position for position, part in enumerate(which)}
        apart: Sequence[Tensor] = ()
        values: list[Tensor | float] = [1.0]
        for step in self.steps:
            if isinstance(step, Join):
                terms = [_times(values[s], f) for s, f in zip(step.sources, step.factors, strict=True)]
                values.append(_joined(terms, step.stacked))
                continue
            value = values[step.source]
            indices = [place[part] for part in step.parts if part in place]
            if 0 < len(indices) == len(found):
                value = _times(product(found), value)
            elif indices:
                apart = apart or found.unbind()
                some = [apart[index] for index in indices]
                value = _times(product(torch.stack(some)) if len(some) > 1 else some[0], value)
            number = 1.0
            for part in step.parts:
                factor = factors[part]
                if isinstance(factor, float):
                    number *= factor
                else:
                    value = value * factor
            values.append(_times(value, number))
        return _scalar(values[-1], found)


def compose(nodes: Sequence[Node], merged: dict[int, tuple[int, Merged]], target: int) -> Composition:
    """Compose the constant of node ``target`` as a map from the input of the network.

    Args:
        nodes: the graph.
        merged: from :func:`gloro_fast.graph.merging.mergeable`.
        target: a node that is not constant.
    """
    arrows = {index: _arrow(nodes, merged, index) for index in _needed(nodes, merged, target)}
    users: dict[int, int] = {}
    for sources, _ in arrows.values():
        for source in sources:
            users[source] = users.get(source, 0) + 1
    parts: list[Mapping | Merged] = []
    steps: list[Product | Join] = []
    ends: list[tuple[int, int]] = []
    where = {0: 0}
    open_product: dict[int, Product] = {}
    for index in sorted(arrows):
        sources, how = arrows[index]
        if isinstance(how, Joining):
            _close(where, open_product, steps, sources)
            steps.append(Join(tuple(where[s] for s in sources), how.factors, how.stacked))
            where[index] = len(steps)
            continue
        (source,) = sources
        parts.append(how)
        ends.append((source, index))
        before = open_product.pop(source, None) if users[source] == 1 else None
        if before is None:
            _close(where, open_product, steps, sources)
            before = Product(where[source], ())
        open_product[index] = Product(before.source, (*before.parts, len(parts) - 1))
    _close(where, open_product, steps, (target,))
    return Composition(tuple(parts), tuple(steps), tuple(ends))


def _close(
    where: dict[int, int], products: dict[int, Product], steps: list[Product | Join], indices: Sequence[int]
) -> None:
    """Make steps of the products that end in ``indices``, so that others can build upon them."""
    for index in indices:
        if index in products:
            steps.append(products.pop(index))
            where[index] = len(steps)


def _arrow(
    nodes: Sequence[Node], merged: dict[int, tuple[int, Merged]], index: int
) -> tuple[tuple[int, ...], Mapping | Merged | Joining]:
    """Return the earlier nodes whose constants that of ``index`` is made of, and how."""
    if index in merged:
        source, how = merged[index]
        return (source,), how
    transfer = nodes[index].transfer
    assert transfer is not None
    return tuple(i for i in nodes[index].inputs if not nodes[i].is_constant), transfer


def _needed(nodes: Sequence[Node], merged: dict[int, tuple[int, Merged]], target: int) -> set[int]:
    needed = {target} - {0}
    for index in range(target, 0, -1):
        if index in needed:
            needed.update(_arrow(nodes, merged, index)[0])
    return needed - {0}


def _times(value: Tensor | float, factor: Tensor | float) -> Tensor | float:
    if isinstance(factor, float):
        return value if factor == 1.0 else value * factor
    return torch.mul(factor, value)


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    # new_full fills on the device, where a tensor made of a number is copied to it, and waited for.
    return like.new_full((), value) if isinstance(value, float) else value.to(like.dtype)


def _joined(terms: list[Tensor | float], stacked: bool) -> Tensor | float:
    if all(isinstance(term, float) for term in terms):
        numbers = [float(term) for term in terms]
        return root_sum_squares_up(*numbers) if stacked else add_up(*numbers)
    like = next(term for term in terms if isinstance(term, Tensor))
    together = torch.stack([_scalar(term, like) for term in terms])
    if not stacked:
        return together.sum()
    # Divided by the largest first: squares of 1e-23 would vanish, and the root of 0 has no gradient.
    largest = together.detach().amax()
    scale = torch.where(largest > 0, largest, 1.0)
    norm: Tensor = torch.linalg.vector_norm(together / scale)
    return norm * scale
