"""Random classifiers that torch.fx can trace, small enough that a thousand are bounded in a minute."""

from __future__ import annotations

import math
import operator
import random
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast.nn import Conv2d, GroupSort, MinMax

SHAPE = (2, 4, 5)

# The graphs are tried in float64, where Softplus has a constant from this threshold on.
Softplus = partial(nn.Softplus, threshold=37.0)
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, Softplus, nn.Identity)
FUNCTIONS = {
    "relu": lambda x, p: F.relu(x),
    "tanh": lambda x, p: x.tanh(),
    "half": lambda x, p: x * 0.5,
    "twice": lambda x, p: 2 * x,
    "third": lambda x, p: x / 3.0,
    "negative": lambda x, p: -x,
    "shifted": lambda x, p: 1.0 - x,
    "scaled by a parameter": lambda x, p: x * p[:, : x.shape[1]],
    "shifted by a parameter": lambda x, p: x + p[:, : x.shape[1]],
    "channels": lambda x, p: x[:, :2],
    "rows": lambda x, p: x[..., 1:, :],
    "turned": lambda x, p: x.transpose(2, 3).contiguous(),
    "permuted": lambda x, p: x.permute(0, 1, 3, 2),
    "reshaped": lambda x, p: x.view(x.size(0), x.size(1), -1, 1),
    "flipped": lambda x, p: torch.flip(x, (2,)),
    "padded": lambda x, p: F.pad(x, (1, 0, 0, 1)),
    "rolled": lambda x, p: torch.roll(x, 1, 3),
    "mean": lambda x, p: x.mean(dim=3, keepdim=True),
    "sum": lambda x, p: x.sum(dim=(2,), keepdim=True),
    "largest": lambda x, p: x.amax(dim=3, keepdim=True),
    "pooled": lambda x, p: F.max_pool2d(x, 2, 1, 1),
    "averaged": lambda x, p: F.avg_pool2d(x, 2, 1, 1),
    "clamped": lambda x, p: x.clamp(-1.0, 1.0),
    "halves swapped": lambda x, p: torch.cat(x.chunk(2, 1)[::-1], 1),
    "left out": lambda x, p: F.dropout(x, 0.3, False),
}
OVERWRITING = {
    "relu in place": lambda x, p: F.relu(x, inplace=True),
    "relu_": lambda x, p: x.relu_(),
    "mul_": lambda x, p: x.mul_(0.5),
    "add_": lambda x, p: x.add_(1.0),
    "div_ by a parameter": lambda x, p: x.div_(p[:, : x.shape[1]].abs() + 1.0),
    "times in place": lambda x, p: operator.imul(x, -1.5),
    "minus in place": lambda x, p: operator.isub(x, p[:, : x.shape[1]]),
}
SMOOTH = ["mul_", "add_", "times in place", "minus in place"]
# What may give its input's memory.
VIEWS = ("channels", "rows", "turned", "permuted", "reshaped", "left out")
JOINS = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "weighted sum": lambda a, b: torch.add(a, b, alpha=0.7),
    "in place": lambda a, b: (a * 1.0).add_(b),
    "added to": operator.iadd,
    "side by side": lambda a, b: torch.cat((a, b), dim=1),
    "larger": torch.maximum,
}


def data(tensor):
    """The address of the memory that a tensor is in."""
    return tensor.untyped_storage().data_ptr()


class RandomGraph(nn.Module):
    """Operations on a list of values, each of earlier ones: ("layer" | "function" | "join", which, inputs)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.program: list[tuple[str, object, tuple[int, ...]]] = []
        self.factor = nn.Parameter(torch.empty(1, 16, 1, 1))
        choose = random.Random(seed)
        # Positive weights pass the same directions on from layer to layer, so that bounds are nearly reached.
        self.positive = choose.random() < 0.5
        self.smooth = choose.random() < 0.3
        self._grow(choose, choose.randint(2, 9))
        torch.manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.2, 2.0)
                nn.init.normal_(module.running_mean)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 1.0 / math.sqrt(max(1, parameter[0].numel())))
            if self.positive:
                parameter.data.abs_()
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 3)."""
        values = [x]
        for kind, which, inputs in self.program:
            values.append(self._apply_one(kind, which, [values[i] for i in inputs]))
        return values[-1]

    def _apply_one(self, kind, which, inputs):
        if kind == "layer":
            return self.layers[which](inputs[0])
        if kind == "function":
            return {**FUNCTIONS, **OVERWRITING}[which](inputs[0], self.factor)
        return JOINS[which](*inputs)

    @torch.no_grad()
    def _grow(self, choose: random.Random, operations: int) -> None:
        values = [torch.zeros(2, *SHAPE)]
        memory, lost = [0], set()  # The first value in the same memory; values that something wrote over.
        while len(self.program) < operations:
            source = choose.randrange(max(0, len(values) - 3), len(values))
            kind, which, inputs = self._propose(choose, values, source)
            overwrites = self._overwrites(kind, which)
            if lost.intersection(inputs) or (overwrites and memory[inputs[0]] == 0):
                continue
            given = [values[i].clone() for i in inputs]
            try:
                result = self._apply_one(kind, which, given)
            except (RuntimeError, ValueError):
                continue
            if result.ndim != 4 or result[0].numel() > 200 or 0 in result.shape:
                continue
            self.program.append((kind, which, inputs))
            shares = overwrites or which in VIEWS or data(result) == data(given[0])
            gone = {i for i, first in enumerate(memory) if overwrites and first == memory[inputs[0]]}
            if overwrites and not self._has_gradient(lost | gone):
                self.program.pop()
                continue
            values.append(result)
            memory.append(memory[inputs[0]] if shares else len(memory))
            lost |= gone
        last = len(values) - 1
        self.layers.append(nn.Flatten())
        self.layers.append(nn.Linear(values[-1][0].numel(), 3))
        self.program.append(("layer", len(self.layers) - 2, (last,)))
        self.program.append(("layer", len(self.layers) - 1, (last + 1,)))
        if choose.random() < 0.15:
            self.program.append(("function", choose.choice(("tanh", "half", "relu")), (last + 2,)))

    def _overwrites(self, kind, which):
        if kind == "layer":
            return getattr(self.layers[which], "inplace", False)
        return which in OVERWRITING or which == "added to"

    @torch.enable_grad()
    def _has_gradient(self, lost):
        """Return whether autograd finds what it needs of what was written over."""
        values = [torch.zeros(2, *SHAPE, requires_grad=True)]
        try:
            for kind, which, inputs in self.program:
                values.append(self._apply_one(kind, which, [values[i] for i in inputs]))
            kept = sum(value.sum() for i, value in enumerate(values) if i not in lost)
            torch.autograd.grad(kept, values[0])
        except RuntimeError:
            return False
        return True

    def _propose(self, choose, values, source):
        if choose.random() < 0.25:
            names = SMOOTH if self.smooth else list(OVERWRITING)
            return "function", choose.choice(names), (source,)
        draw = choose.random()
        if draw < 0.35:
            twins = [i for i, v in enumerate(values) if v.shape == values[source].shape and i != source]
            other = choose.choice(twins) if twins else source
            return "join", choose.choice(list(JOINS)), (source, other)
        if draw < 0.6:
            names = list(FUNCTIONS) if not self.smooth else ["half", "negative", "shifted", "scaled by a parameter"]
            return "function", choose.choice(names), (source,)
        if draw < 0.65 and len(self.layers):
            return "layer", choose.randrange(len(self.layers)), (source,)
        self.layers.append(self._layer(choose, values[source].shape[1]))
        return "layer", len(self.layers) - 1, (source,)

    def _layer(self, choose, channels):
        draw = choose.random()
        if draw < 0.45:
            groups = choose.choice([1, 1, channels])
            outputs = choose.choice([channels, channels, 2 * channels])
            size = choose.choice([1, 2, 3])
            if choose.random() < 0.5:
                return Conv2d(channels, outputs, size, 1, padding="same", groups=groups)
            padding, stride, dilation = choose.choice([0, 1]), choose.choice([1, 1, 2]), choose.choice([1, 1, 2])
            return nn.Conv2d(channels, outputs, size, stride, padding, dilation, groups)
        if draw < 0.6:
            return nn.BatchNorm2d(channels, affine=choose.random() < 0.7)
        if draw < 0.65:
            return nn.ConvTranspose2d(channels, channels, choose.choice([1, 2]), choose.choice([1, 2]))
        if self.smooth:
            return nn.Identity()
        if draw < 0.75:
            return choose.choice([MinMax(), MinMax(inplace=True), nn.ReLU(inplace=True), GroupSort(2), nn.PReLU()])
        if draw < 0.8:
            return choose.choice([nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.ZeroPad2d(1), nn.PixelUnshuffle(2)])
        return choose.choice(ACTIVATIONS)()
