"""Forwards that compute with sizes, decide by them, and make numbers of them."""

import functools
import itertools
import math
import operator

import torch
import torch.nn.functional as F
from torch import nn

from module_pieces.registry import BOTH, each, written


def _channel_by_channel(x):
    parts = [None] * x.shape[1]
    for i in range(x.shape[1]):
        parts[i] = x[:, i : i + 1] * (1.0 / (i + 1))
    return torch.cat(parts, dim=1)


def _halved_until_small(x):
    while x.shape[-1] > 2:
        x = F.avg_pool2d(x, (1, 2))
    return x


def _asserted(x):
    _, c, h, w = x.shape
    assert c * h * w == x[0].numel(), "sizes"
    assert h > 0
    return x * 0.5


def _unpacked(x):
    batch, channels, height, width = x.size()
    return x.reshape(batch, channels, height * width).transpose(1, 2).reshape(batch, -1, channels).transpose(1, 2)


def _rows(x):
    total = 0
    for row in x.unbind(dim=2):
        total = total + row * 0.3
    return total.unsqueeze(2)


def _iterated_channels(x):
    return torch.stack([channel * 0.5 for channel in x.transpose(0, 1)], dim=1)


def _padded_to_even(x):
    extra_h, extra_w = x.shape[-2] % 2, x.shape[-1] % 2
    if extra_h or extra_w:
        x = F.pad(x, (0, extra_w, 0, extra_h))
    return x


def _cut_to_match(x):
    y = F.max_pool2d(x, 2, 1)
    return x[:, :, : y.shape[2], : y.size(3)] + y


def _coordinates(x):
    b, _, h, w = x.shape
    rows = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(b, 1, h, w)
    return torch.cat([x, rows], dim=1)


def _last(x):
    *_, last = x.shape
    return x / last


def _small_batches(x):
    assert 0 < x.shape[0] < 1000
    return x * 0.5


ANYWHERE = {
    "if x.shape[-1] > 4": lambda x: x * 0.5 if x.shape[-1] > 4 else 1.0 - x,
    "if x.size(1) % 2": lambda x: x * 0.5 if x.size(1) % 2 else 1.0 - x,
    "for i in range(x.shape[1])": _channel_by_channel,
    "a number made of sizes": lambda x: x / math.sqrt(x.shape[1]),
    "math.prod of sizes": lambda x: x * (4.0 / math.prod(x.shape[1:])),
    "x[0].numel()": lambda x: x / (x[0].numel() ** 0.5),
    "x.numel() // len(x)": lambda x: x.reshape(len(x), x.numel() // len(x)).view(x.shape),
    "x.view(len(x), -1)": lambda x: x.view(len(x), -1).reshape(x.shape) * 0.5,
    "x.view(x.size(0), -1)": lambda x: F.relu(x.contiguous().view(x.size(0), -1)).view(x.size()),
    "x.view(-1, *x.shape[1:])": lambda x: x.reshape(-1, *x.shape[1:]) * 0.5,
    "*_, last = x.shape": _last,
    "max and min of sizes": lambda x: x[:, : max(2, min(x.shape[1], 4))],
    "sorted sizes": lambda x: x * (0.5 if sorted(x.shape[1:])[0] < 10 else 2.0),
    "a table of sizes": lambda x: x * {6: 0.5, 8: 0.6}.get(x.shape[-1], 0.7),
    "a text of sizes": lambda x: x * (len(f"{x.shape[1]}x{x.shape[-1]}") / 4),
    "torch.zeros of the batch": lambda x: torch.cat([x, torch.zeros(x.shape[0], 2, *x.shape[2:])], dim=1),
    "new_zeros": lambda x: torch.cat([x.new_zeros((x.size(0), 1, *x.shape[2:])), x], dim=1),
    "zeros_like": lambda x: torch.cat([x, torch.zeros_like(x)], dim=1),
    "ones_like": lambda x: x + torch.ones_like(x) * 0.5,
    "torch.full with a number": lambda x: x + torch.full((x.shape[1],), 0.3).view(1, -1, *[1] * (x.ndim - 2)),
    "arange": lambda x: x + torch.arange(x.shape[-1], dtype=x.dtype) / 7,
    "a weight of sizes": lambda x: x * torch.linspace(0.5, 1.0, x.shape[-1], device=x.device),
    "itertools over sizes": lambda x: sum(x.roll(i, 1) * 0.3 for i, _ in itertools.islice(enumerate(x.shape), 2)),
    "shape == shape": lambda x: x * 0.5 if x.shape == x.tanh().shape else -x,
    "shape[1:] in a set": lambda x: x * 0.5 if tuple(x.shape[1:]) not in {(9, 9)} else -x,
    "hash of a shape": lambda x: x * (0.5 if hash(tuple(x.shape[1:])) == hash(tuple(x.size()[1:])) else 2.0),
    "divmod of a size": lambda x: x / (1 + divmod(x.shape[1], 3)[1]),
    "float(x.shape[1])": lambda x: x * (1 / float(x.shape[1])),
    "len(x.shape)": lambda x: x.permute(0, *range(2, len(x.shape)), 1) * 0.5,
}
IMAGES = {
    "while x.shape[-1] > 2": _halved_until_small,
    "assert on sizes": _asserted,
    "b, c, h, w = x.size()": _unpacked,
    "for row in x.unbind(2)": _rows,
    "padded to even sizes": _padded_to_even,
    "cut to match": _cut_to_match,
    "coordinates as a channel": _coordinates,
    "a pooling window of the size": lambda x: F.avg_pool2d(x, x.size()[2:]),
    "half the size": lambda x: F.adaptive_avg_pool2d(x, (max(1, x.shape[2] // 2), -(-x.shape[3] // 2))),
    "functools.reduce over chunks": lambda x: functools.reduce(operator.add, x.chunk(x.shape[1], 1)) * 0.3,
    "groups of the channels": lambda x: x.unflatten(1, (2, x.shape[1] // 2)).flip(1).flatten(1, 2),
    "strided by the size": lambda x: x[:, :, :: max(1, x.shape[2] // 3)],
}
# Numbers made of the batch size, and images that are moved through the batch dimension.
DOUBTFUL = {
    "x / (1 + x.shape[0] // 4)": lambda x: x / (1 + x.shape[0] // 4),
    "x * (1 + x.shape[0] // 4)": lambda x: x * (1 + x.shape[0] // 4),
    "x * (x.shape[0] > 30)": lambda x: x * (1.0 + 4.0 * (x.shape[0] > 30)),
    "x / (1 / len(x))": lambda x: x / (1 / len(x)),
    "x * 2 ** -len(x)": lambda x: x * 2.0 ** -x.shape[0],
    "more channels for more images": lambda x: F.pad(x, (0, 0) * (x.ndim - 2) + (0, x.shape[0] % 2)),
    "min(1, 2 / len(x))": lambda x: x * min(1, 2 / len(x)),
    "if len(x) > 4": lambda x: x * 0.5 if len(x) > 4 else x,
    "if x.shape[0] == 1": lambda x: x * 0.5 if x.shape[0] == 1 else x,
    "x.size(0) % 3": lambda x: x + x.size(0) % 3,
    "x + len(x)": lambda x: x + 0.1 * len(x),
    "math.log of the batch": lambda x: x * math.log(2 + x.shape[0]),
    "x.numel() as a number": lambda x: x / x.numel(),
    "channels by the batch": lambda x: x[:, : min(2, x.shape[0])],
    "for i in range(len(x))": lambda x: torch.stack([x[i] * 0.5 for i in range(len(x))]),
    "for image in x": lambda x: torch.stack([image * 0.5 for image in x]),
    "folded into the batch": lambda x: (x.reshape(x.shape[0] * 2, -1) * 0.5).reshape(x.shape),
    "torch.arange of the batch": lambda x: x + torch.arange(len(x)).view(-1, *[1] * (x.ndim - 1)),
    "the batch's size in a tensor": lambda x: x / torch.tensor(1.0 + x.shape[0]),
    "x.split of the batch": lambda x: torch.cat([part * 0.5 for part in x.split(2)]),
    "the batch through a pooling": lambda x: F.relu(x.transpose(0, 1)).transpose(0, 1),
    "for channel in x.transpose(0, 1)": _iterated_channels,
    "a list of sizes": lambda x: x * (sum(x.shape) / 20),
    "a bucket of batch sizes": lambda x: x * [1.0, 0.5, 0.25][min(2, x.shape[0] // 5)],
    "x.shape[0] < 10": lambda x: x * 0.5 if x.shape[0] < 10 else x * 0.4,
    "batch assertion": _small_batches,
}


each(__name__, ANYWHERE, ranks=BOTH)
each(__name__, IMAGES)
each(__name__, DOUBTFUL, ranks=BOTH, legal=False)


def layers_in_a_list(self, choose, shape):
    self.layers = nn.ModuleList([nn.Conv2d(shape[0], shape[0], 1) for _ in range(2)])
    self.skips = nn.ModuleList([nn.Identity(), nn.AvgPool2d(1)])


@written("zip over ModuleLists", layers_in_a_list)
def zipped(self, x):
    for i, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True)):
        x = F.relu(layer(x)) + skip(x) / (i + 2)
    return x


@written("sum over layers", layers_in_a_list)
def summed(self, x):
    return sum(layer(x) for layer in self.layers) / len(self.layers)


def as_many_layers_as_pixels(self, choose, shape):
    self.layers = nn.ModuleList([nn.Conv2d(shape[0], shape[0], 1) for _ in range(4)])


@written("as many layers as the size says", as_many_layers_as_pixels)
def by_size(self, x):
    for layer in self.layers[: min(x.shape[2], 2)]:
        x = layer(x)
    return x
