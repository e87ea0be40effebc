"""Random classifiers as people write them, from pieces that are easy and pieces that are hard to follow."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from module_pieces import PIECES, Piece, Shape
from torch import nn

CLASSES = 3
EASY = ("layers", "functions", "overwriting")
HARD = ("calls", "containers", "contexts", "questions", "sizes", "state", "subclasses", "weights")
LARGEST = 300


@dataclass(frozen=True)
class Case:
    """A random module and what is known of it.

    Attributes:
        module: from (B, *shape) to logits (B, 3), in evaluation mode.
        shape: of one input.
        pieces: what it is made of, but for the head.
        positive: whether its weights are, so that its bound is nearly reached.
    """

    module: nn.Module
    shape: Shape
    pieces: tuple[Piece, ...]
    positive: bool

    @property
    def legal(self) -> bool:
        """Whether a GloRo net should accept it."""
        return all(piece.legal for piece in self.pieces)

    @property
    def rounds(self) -> bool:
        """Whether part of it is computed in bfloat16."""
        return any(piece.rounds for piece in self.pieces)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of what it is made of."""
        return tuple(f"{piece.group}: {piece.name}" for piece in self.pieces)

    @property
    def mutations(self) -> list[Callable[[], Callable[[], object]]]:
        """What changes something that the forward reads, and gives what undoes that."""
        return [module.mutate for module in self.module.modules() if hasattr(module, "mutate")]


def random_case(seed: int) -> Case:
    """Make the module of this number: easy pieces, one to three hard ones, and seldom one that may be refused."""
    choose = random.Random(seed)
    names = _chosen(choose)
    return _case(choose, seed, names, choose.randint(0, 3))


def case_of(name: str, seed: int) -> Case:
    """Make a module of one piece and a head; where the piece does not fit a shape, of another shape."""
    cases = (_case(random.Random(f"{seed}.{attempt}"), seed, [name], 0) for attempt in range(50))
    return next(case for case in cases if PIECES[name] in case.pieces)


def _chosen(choose):
    legal = [piece.name for piece in PIECES.values() if piece.group in HARD and piece.legal]
    doubtful = [piece.name for piece in PIECES.values() if not piece.legal and piece.group != "reflection"]
    # Groups first, so that a group with few pieces is not left out.
    by_group = {group: [name for name in legal if PIECES[name].group == group] for group in HARD}
    names = [choose.choice(by_group[choose.choice(HARD)]) for _ in range(choose.randint(1, 3))]
    return [*names, choose.choice(doubtful)] if choose.random() < 0.2 else names


def _case(choose, seed, names, easy):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = PIECES[names[0]]
        image = 3 in first.ranks and (1 not in first.ranks or choose.random() < 0.8)
        shape = (choose.choice([2, 3, 4]), choose.choice([4, 6]), choose.choice([5, 6, 8])) if image else (8,)
        fillers = [piece.name for piece in PIECES.values() if piece.group in EASY and piece.legal]
        wanted = [*names[1:], *(choose.choice(fillers) for _ in range(easy))]
        choose.shuffle(wanted)
        # The one that the case is about comes first or after a layer, as it is sure to fit there.
        wanted = ["a dense layer", names[0], *wanted] if choose.random() < 0.5 else [names[0], *wanted]
        used: list[Piece] = []
        module = _build(choose, shape, wanted, used)
        positive = choose.random() < 0.5
        if positive:
            _make_positive(module)
    return Case(module.eval(), shape, tuple(used), positive)


def _build(choose, shape, wanted, used):
    """Put blocks of pieces after one another, and a head at the end."""
    blocks, now = [], shape
    while wanted:
        count = choose.randint(1, 2)
        part, wanted = wanted[:count], wanted[count:]
        layers, then = [], now
        for name in part:
            layer, after = _fitting(choose, then, name)
            if layer is not None:
                layers.append(layer)
                used.append(PIECES[name])
                then = after
        if layers:
            block = _block(choose, layers, now, then)
            after = _shape_after(block, now)
            # Too many pixels side by side, or a branch that cannot be added to in place.
            blocks.append(block if after else nn.Sequential(*layers))
            now = after or then
    return choose.choice([Model, InSequence])(blocks, _head(choose, now))


def _fitting(choose, shape, name):
    """Try to make a piece for this shape; give it and the shape after it, or None where it does not fit."""
    piece = PIECES[name]
    if len(shape) not in piece.ranks:
        return None, None
    for _ in range(5):
        try:
            layer = piece.make(choose, shape)
        except (RuntimeError, ValueError):
            continue
        after = _shape_after(layer, shape)
        if after is not None:
            return layer, after
    return None, None


def _shape_after(layer, shape):
    """Return the shape of one image after a layer, found on a copy, so that the layer has never been called."""
    trial = copy.deepcopy(layer).eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = trial(torch.full((2, *shape), 0.1))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        return None
    after = tuple(result.shape[1:])
    good = len(result) == 2 and len(after) in (1, 2, 3) and 0 < result[0].numel() <= LARGEST
    return after if good and result.dtype == torch.float32 else None


def _block(choose, layers, before, after):
    inner = choose.choice([lambda: nn.Sequential(*layers), lambda: Loop(layers), lambda: Nested(layers)])()
    if len(layers) == 1 and choose.random() < 0.4:
        inner = layers[0]
    draw = choose.random()
    if draw < 0.2 and before == after:
        return Residual(inner)
    if draw < 0.3 and before == after:
        return Mixed(inner)
    if draw < 0.4 and len(before) == len(after) and before[1:] == after[1:] and before[0] + after[0] <= 12:
        return Concatenated(inner)
    return inner


def _head(choose, shape):
    size = 1
    for side in shape:
        size *= side
    if len(shape) == 3 and choose.random() < 0.3:
        return Pooled(shape[0])
    kinds = [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, CLASSES)),
        lambda: Viewed(size),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(size, 6), nn.ReLU(inplace=True), nn.Linear(6, CLASSES)),
        lambda: Functional(size),
    ]
    return choose.choice(kinds)()


def _make_positive(module):
    """Make weights positive: the same directions are then passed on from layer to layer, and bounds nearly reached.

    The last rows are of different sizes, so that their differences are positive too.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | Functional) and not hasattr(layer, "parametrizations"):
            layer.weight.data.abs_()
            if isinstance(layer, nn.Linear | Functional) and len(layer.weight) == CLASSES:
                layer.weight.data.mul_(torch.tensor([[0.1], [1.0], [3.0]]))


class Model(nn.Module):
    """Blocks, then a head, as attributes."""

    def __init__(self, blocks, head):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), head

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class InSequence(nn.Module):
    """Features and a classifier."""

    def __init__(self, blocks, head):
        super().__init__()
        self.features, self.classifier = nn.Sequential(*blocks), head

    def forward_features(self, x):
        return self.features(x)

    def forward(self, x):
        return self.classifier(self.forward_features(x))


class Loop(nn.Module):
    """A loop over a ModuleList by index."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for index in range(len(self.layers)):
            x = self.layers[index](x)
        return x


class Nested(nn.Module):
    """A module within a module."""

    def __init__(self, layers):
        super().__init__()
        self.body = Loop(layers)

    def forward(self, x):
        return self.body(x)


class Residual(nn.Module):
    """A residual block; what its branch may write over is a copy."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        out = self.block(x * 1.0)
        out += x
        return F.relu(out)


class Mixed(nn.Module):
    """A mean of both, with learned weights."""

    def __init__(self, block):
        super().__init__()
        self.block, self.alpha = block, nn.Parameter(torch.tensor([0.4]))

    def forward(self, x):
        return self.block(0.5 * x) * self.alpha + x * (1 - self.alpha)


class Concatenated(nn.Module):
    """A dense connection."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return torch.cat((x, self.block(x + 0.0)), dim=1)


class Pooled(nn.Module):
    """Global average pooling and a dense layer."""

    def __init__(self, channels):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(channels, CLASSES)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(x), 1))


class Viewed(nn.Module):
    """The old way to flatten."""

    def __init__(self, size):
        super().__init__()
        self.fc = nn.Linear(size, CLASSES)

    def forward(self, x):
        x = x.reshape(x.size(0), -1)
        return self.fc(x)


class Functional(nn.Module):
    """A dense layer as a function."""

    def __init__(self, size):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(CLASSES, size) / size**0.5),
            nn.Parameter(torch.zeros(CLASSES)),
        )

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight, self.bias)
