"""The collection of pieces: small modules that take images (B, C, H, W) or vectors (B, d) and keep the batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Shape = tuple[int, ...]
IMAGES, VECTORS, BOTH = (3,), (1,), (1, 3)


@dataclass(frozen=True)
class Piece:
    """How one kind of module is made, and what is known of it.

    Attributes:
        name: says what its forward does.
        group: the file that it is written in.
        make: from a source of choices and the shape of one input, a module.
        legal: whether a GloRo net should accept it; what is not legal may be refused or followed.
        ranks: dimensions of one input that it takes.
        rounds: whether it computes in bfloat16, whose steps no Lipschitz constant describes.
        repeats: whether two runs in training mode with the same seed must give the same.
    """

    name: str
    group: str
    make: Callable[[random.Random, Shape], nn.Module]
    legal: bool
    ranks: tuple[int, ...]
    rounds: bool
    repeats: bool


PIECES: dict[str, Piece] = {}


def piece(name, *, legal=True, ranks=IMAGES, rounds=False, repeats=True):
    """Register what makes a module of (choices, shape): a class, or a function."""

    def register(make):
        assert name not in PIECES, name
        group = make.__module__.rpartition(".")[2]
        PIECES[name] = Piece(name, group, make, legal, ranks, rounds, repeats)
        return make

    return register


def written(name, setup=None, **settings):
    """Register a module whose ``forward`` is the function that this decorates; ``setup`` gives it its attributes.

    Not called ``forward``: what calls super().forward() would be taken to read this, and all pieces behind it.
    """

    def register(function):
        def initialise(self, choose, shape):
            nn.Module.__init__(self)
            if setup is not None:
                setup(self, choose, shape)

        members = {"__init__": initialise, "forward": function, "__module__": function.__module__}
        return piece(name, **settings)(type("Written", (nn.Module,), members))

    return register


class OfFunction(nn.Module):
    """A module whose ``forward`` is one call of a function that it keeps."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def each(module, functions, **settings):
    """Register a module for each of some named functions of x, which are written in ``module``."""
    for name, function in functions.items():

        def make(choose, shape, function=function):
            return OfFunction(function)

        make.__module__ = module
        piece(name, **settings)(make)


def change(holder, key, factor=3.0):
    """Multiply a number in a list, dict or object by ``factor``; give what undoes it."""
    items = isinstance(holder, list | dict)
    before = holder[key] if items else getattr(holder, key)

    def put(value):
        if items:
            holder[key] = value
        else:
            setattr(holder, key, value)

    put(before * factor)
    return lambda: put(before)
