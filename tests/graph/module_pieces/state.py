"""Forwards that keep things, and that differ between training and evaluation."""

import torch
import torch.nn.functional as F
from torch import nn

from module_pieces.registry import BOTH, IMAGES, change, piece, written


@piece("a counter", ranks=BOTH)
class Counter(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * 0.5


@piece("a counter that counts", ranks=BOTH, legal=False)
class CountingGain(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x / self.calls


@piece("keeps its features", ranks=BOTH)
class Features(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.features, self.history = None, []

    def forward(self, x):
        self.features = x.detach() if self.training else x
        self.history.append(tuple(x.shape))
        return x * 0.5


@piece("makes a tensor once")
class Lazy(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.grid = None

    def forward(self, x):
        if self.grid is None or self.grid.shape[-2:] != x.shape[-2:]:
            self.grid = torch.linspace(0.5, 1.0, x.shape[-1]).expand(1, 1, *x.shape[-2:])
        return x * self.grid


@piece("makes a tensor once, in a dict by size", ranks=BOTH)
class LazyDict(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        key = tuple(x.shape[1:])
        if key not in self.cache:
            self.cache[key] = torch.full(key, 0.3)
        return x + self.cache[key]


@piece("makes a buffer in its forward", ranks=BOTH, legal=False)
class LazyBuffer(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()

    def forward(self, x):
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.full((1,), 0.5))
        return x * self.scale


@piece("the previous batch", ranks=BOTH, legal=False)
class Previous(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.mean = None

    def forward(self, x):
        mean, self.mean = self.mean, x.detach().mean()
        return x if mean is None else x + mean


@piece("a running mean in a buffer", ranks=BOTH, legal=False)
class RunningMean(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean() * 0.1)
        return x - self.mean


@piece("a scale in training alone", ranks=BOTH)
class TrainingScale(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.gain = 0.7

    def forward(self, x):
        return x * self.gain if self.training else x * 0.5

    def mutate(self):
        return change(self, "gain")


@written("F.dropout with self.training", ranks=BOTH)
def functional_dropout(self, x):
    return F.dropout(x, p=0.25, training=self.training)


def dropout2d(self, choose, shape):
    self.drop = nn.Dropout2d(0.2)


def dense(self, choose, shape):
    self.layer = nn.Linear(shape[-1], 6)


def norm(self, choose, shape):
    self.norm = nn.BatchNorm2d(shape[0])


@written("dropout of whole channels", dropout2d, ranks=IMAGES)
def channel_dropout(self, x):
    return self.drop(x) * 0.5


@written("stochastic depth", ranks=BOTH, legal=False)
def stochastic_depth(self, x):
    if not self.training:
        return x * 0.5
    keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.8)
    return x * keep.div_(0.8) * 0.5


@written("noise in training", ranks=BOTH, legal=False)
def noise(self, x):
    return x + 0.1 * torch.randn_like(x) if self.training else x


@written("another branch in training", dense, ranks=BOTH)
def other_branch(self, x):
    y = self.layer(x)
    if self.training:
        y = y + y.tanh() * 0.5
    return y


@written("a layer frozen in eval", norm, ranks=IMAGES, legal=False)
def frozen_norm(self, x):
    self.norm.eval()
    return self.norm(x)
