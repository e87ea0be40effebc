"""The losses that recipes name, and what training needs to know of each beside its criterion."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from gloro_fast.errors import ConfigError

if TYPE_CHECKING:
    from gloro_fast.losses.criterion import Criterion, MarginCriterion


@dataclass(frozen=True)
class Loss:
    """A loss as a recipe names it.

    Attributes:
        criterion: the type of the criterion, or where it is, as ``"package.module:Type"``: recipes are read without
            torch, which every criterion imports.
        arguments: what it is made with.
        has_lambda: whether the weight lambda of a recipe is its ``lam``, to be set epoch by epoch.
        largest_lambda: what that may be at most.
        margins: as for ``GloRoNet``: ``"whole"`` where the net is bounded by one constant.
        with_bottom: whether it is a loss of the margins; False for losses of f alone.
        has_epsilon: whether it depends on the epsilon trained with.
        is_sampled: whether it is one of the smoothed classifier, a ``SampledLoss``: it draws the noise of the recipe.
    """

    criterion: type[Criterion] | str
    arguments: tuple[float | str, ...] = ()
    has_lambda: bool = False
    largest_lambda: float = math.inf
    margins: Literal["rows", "whole"] = "rows"
    with_bottom: bool = True
    has_epsilon: bool = True
    is_sampled: bool = False

    def build(self) -> Criterion:
        """Return the criterion, made with its arguments."""
        kind: Any = self.criterion
        if isinstance(kind, str):
            module, _, name = kind.partition(":")
            kind = getattr(importlib.import_module(module), name)
        criterion: Criterion = kind(*self.arguments)
        return criterion


LOSSES: dict[str, Loss] = {}
"""The losses by the names that recipes have for them."""
_criteria: set[type[object] | str] = set()


def register(name: str, loss: Loss) -> None:
    """Let recipes train with ``loss`` by ``name``.

    A criterion of exactly its type must read nothing but its arguments and its attributes, and lambda by ``lam_on``: a
    net computes it together with the margin, and captures of a step replay it. Others are called with the logits.

    Raises:
        ConfigError: the name is taken.
    """
    if name in LOSSES:
        raise ConfigError(f"there is a loss {name!r} already; choose another name")
    LOSSES[name] = loss
    if not loss.is_sampled:
        _criteria.add(loss.criterion)


def is_registered(criterion: object) -> TypeGuard[MarginCriterion]:
    """Return whether ``criterion`` is exactly of a registered type: a subclass may compute anything."""
    kind = type(criterion)
    # Nothing is kept for the next time: a compiled step that read it would be compiled anew.
    return kind in _criteria or f"{kind.__module__}:{kind.__qualname__}" in _criteria
