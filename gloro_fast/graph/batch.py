"""The number of images of a batch in a captured graph: a symbol, or the number that stands for it."""

from __future__ import annotations

from typing import Any

from torch import SymInt, Tensor

from gloro_fast.errors import ArchitectureError

BATCH_HINT = 1787
"""The number of images that a batch has where a plain number is asked for, as by len(): no size of a network."""


def is_batch_size(size: Any) -> bool:
    """Return whether a size of a tensor in a captured graph is the number of images."""
    if isinstance(size, SymInt):
        return bool(size.node.expr.is_symbol) or size.node.expr == BATCH_HINT
    return type(size) is int and size == BATCH_HINT


def shown_size(size: Any) -> str:
    """Write a size with B for the number of images."""
    if type(size) is int:
        return str(size)
    (symbol,) = size.node.expr.free_symbols or (None,)
    return str(size.node.expr if symbol is None else size.node.expr.subs(symbol, "B"))


def shape_of_images(where: str, result: Tensor) -> tuple[int, ...]:
    """Return the shape of each image of ``result``.

    Raises:
        ArchitectureError: it is not made image by image.
    """
    if result.ndim == 0 or not is_batch_size(result.shape[0]):
        count = (
            "one number for all images" if result.ndim == 0 else f"{shown_size(result.shape[0])} images of a batch of B"
        )
        raise ArchitectureError(f"{where} makes {count}; leave the batch as it is")
    if not all(type(size) is int for size in result.shape[1:]):
        raise ArchitectureError(f"{where} gives images of a shape that depends on the batch; leave the batch alone")
    if 0 in result.shape[1:]:
        raise ArchitectureError(
            f"{where} makes images of shape {tuple(result.shape[1:])}, which are empty; leave it out"
        )
    return tuple(result.shape[1:])
