"""Operations in place."""

import operator

import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.nn import MinMax
from module_pieces.registry import BOTH, each, piece

HARMLESS = {
    "F.relu in place": lambda x: F.relu(x + 0.1, inplace=True),
    "relu_": lambda x: (x - 0.1).relu_(),
    "mul_ and add_": lambda x: (x * 1.0).mul_(0.5).add_(0.25),
    "an augmented sum": lambda x: operator.iadd(x * 0.5, x.tanh()),
    "clamp_": lambda x: (-x).clamp_(-1.0, 1.0),
    "a clone written over": lambda x: x.clone().mul_(0.5) + x,
    "div_": lambda x: (x + 1).div_(2),
    "neg_": lambda x: (x + 1).neg_(),
}
# Item assignment, and writing over what the forward was given.
DOUBTFUL = {
    "a part written over": lambda x: _scaled_part(x + 0.5),
    "an item assigned": lambda x: _assigned(x.clone(), 0.0),
    "channels assigned": lambda x: _assigned(x.clone(), x[:, 1] * 0.5),
    "copy_": lambda x: torch.empty_like(x).copy_(x) * 0.5,
    "the input written over": lambda x: x.mul_(0.5),
    "a sum of a value and itself written over": lambda x: _read_again(x * 1.0),
    "masked_fill_": lambda x: (x * 1.0).masked_fill_(x < 0, 0.0),
    "index_add": lambda x: x.index_add(1, torch.tensor([0]), x[:, 1:2]),
    "an out argument": lambda x: torch.add(x, 0.5, out=torch.empty_like(x)),
}


def _scaled_part(x):
    x[:, :1].mul_(0.5)
    return x


def _assigned(x, value):
    x[:, 0] = value
    return x


def _read_again(x):
    other = x
    x += 1.0
    return other + x


each(__name__, HARMLESS, ranks=BOTH)
each(__name__, DOUBTFUL, legal=False, ranks=BOTH)


@piece("layers in place", ranks=BOTH)
def in_place(choose, shape):
    first = nn.Linear(shape[-1], shape[-1])
    return nn.Sequential(first, choose.choice([nn.ReLU(inplace=True), nn.LeakyReLU(0.2, True), MinMax(inplace=True)]))
