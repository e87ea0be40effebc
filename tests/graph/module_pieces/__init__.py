"""Pieces that random modules are made of, by what is hard about following their ``forward``.

A piece whose values depend on something that can be changed has a method ``mutate`` that changes it and gives what
undoes the change.
"""

from module_pieces import (
    calls,
    containers,
    contexts,
    functions,
    layers,
    overwriting,
    questions,
    reflection,
    sizes,
    state,
    subclasses,
    unbounded,
    weights,
)
from module_pieces.registry import PIECES, Piece, Shape

__all__ = [
    "PIECES",
    "Piece",
    "Shape",
    "calls",
    "containers",
    "contexts",
    "functions",
    "layers",
    "overwriting",
    "questions",
    "reflection",
    "sizes",
    "state",
    "subclasses",
    "unbounded",
    "weights",
]
