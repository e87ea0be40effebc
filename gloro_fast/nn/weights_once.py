"""Computing once what layers make of their parameters, for a forward pass and for the bound of the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_made: ContextVar[dict[tuple[int, ...], Tensor] | None] = ContextVar("made", default=None)


@contextmanager
def weights_once() -> Iterator[None]:
    """Compute each parametrized weight, and what layers give to :func:`made_once`, once within the block.

    No parameter may change in it, and no certificate be signed: torch keeps parametrized weights for all threads.
    """
    before = _made.set({})
    try:
        with parametrize.cached():
            yield
    finally:
        _made.reset(before)


def made_once(layer: nn.Module, sizes: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
    """Return what ``make`` gives, within the block above what it gave before for the layer and the sizes."""
    made = None if torch.compiler.is_compiling() else _made.get()
    if made is None:
        return make()
    key = (id(layer), *sizes)
    if key not in made:
        made[key] = make()
    return made[key]
