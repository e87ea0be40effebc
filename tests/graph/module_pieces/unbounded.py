"""Forwards without a Lipschitz constant, or without one over single images: any refusal is right."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from module_pieces.registry import BOTH, IMAGES, each, piece, written

FUNCTIONS = {
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "x * x": lambda x: x * x * 0.5,
    "x ** 2": lambda x: x**2,
    "x.pow(3)": lambda x: x.pow(3) * 0.1,
    "torch.square": torch.square,
    "torch.exp": lambda x: torch.exp(x) * 0.5,
    "sqrt of |x|": lambda x: x.abs().sqrt(),
    "1 / x": lambda x: 1 / (x.abs() + 0.01),
    "x / x.norm()": lambda x: x / (x.norm(dim=1, keepdim=True) + 0.01),
    "F.normalize": lambda x: F.normalize(x, dim=1),
    "F.layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "by its deviation": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.01),
    "bilinear": lambda x: torch.einsum("bi,bj->bij", x.flatten(1)[:, :4], x.flatten(1)[:, :4]).flatten(1),
    "self-attention": lambda x: _attention(x.flatten(2) if x.ndim == 4 else x[:, None]).flatten(1),
    "torch.round": lambda x: torch.round(x * 4) / 4,
    "x.sign()": lambda x: x.sign(),
    "torch.floor": torch.floor,
    "a mask": lambda x: (x > 0).float(),
    "a mask times a number": lambda x: (x > 0) * 0.5,
    "x > 0 times x": lambda x: x * (x > 0),
    "argmax": lambda x: F.one_hot(x.flatten(1).argmax(1), x[0].numel()).float(),
    "through integers": lambda x: (x * 8).int().float() / 8,
    "through float16": lambda x: x.half().float(),
    "where with another value": lambda x: torch.where(x > 0, x + 3.0, x),
    "if x.max() > 0": lambda x: x * 2 if x.max() > 0 else x,
    "if (x > 0).any()": lambda x: -x if (x > 0).any() else x,
    "x.mean().item()": lambda x: x * x.mean().item(),
    "float(x.sum())": lambda x: x + float(x.sum()),
    "through NumPy": lambda x: torch.from_numpy(np.tanh(x.detach().numpy())),
    "through a list": lambda x: torch.tensor(x.tolist()),
    "x.data": lambda x: torch.tanh(x.data),
    "minus the mean of the batch": lambda x: x - x.mean(0),
    "flipped batch": lambda x: x + x.flip(0),
    "rolled batch": lambda x: x.roll(1, 0),
    "the first image": lambda x: x + x[:1],
    "sorted images": lambda x: x.sort(0)[0],
    "softmax over the batch": lambda x: torch.softmax(x, 0),
    "sum of everything": lambda x: x + x.sum(),
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "random numbers": lambda x: x + torch.rand(1),
    "always dropped": lambda x: F.dropout(x, 0.5),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([0.0, 0.5])).float(),
    "gather by the input": lambda x: x.gather(1, x.argsort(1)),
    "indexed by the input": lambda x: x[:, x.flatten(1).sum(0).argsort()[:2] % x.shape[1]],
    "remainder": lambda x: x.remainder(0.5),
    "complex numbers": lambda x: torch.fft.fft(x).real * 0.1,
    "log": lambda x: torch.log(x.abs() + 1e-3),
    "atan2": lambda x: torch.atan2(x, x.roll(1, 1)),
    "no dependence": lambda x: torch.ones_like(x),
    "nan_to_num": lambda x: torch.nan_to_num(x / x.abs()),
    "tan": lambda x: torch.tan(x),
}
PICTURES = {
    "F.group_norm": lambda x: F.group_norm(x, 2),
    "F.instance_norm": F.instance_norm,
    "local response": lambda x: F.local_response_norm(x, 2),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "indices of pooling": lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float(),
    "a gate of the mean": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "L2 pooling": lambda x: F.lp_pool2d(x, 2, 2),
}


def _attention(x):
    return torch.softmax(x @ x.transpose(1, 2), -1) @ x


each(__name__, FUNCTIONS, ranks=BOTH, legal=False, repeats=True)
each(__name__, PICTURES, ranks=IMAGES, legal=False)


class StraightThrough(torch.autograd.Function):
    """Rounds, and passes gradients on."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@written("an autograd.Function", ranks=BOTH, legal=False)
def straight_through(self, x):
    return StraightThrough.apply(x)


@written("straight-through rounding", ranks=BOTH, legal=False)
def rounded(self, x):
    return x + (torch.round(x) - x).detach()


@written("a gradient within", ranks=BOTH, legal=False)
def gradient(self, x):
    with torch.enable_grad():
        y = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((y.tanh() * y).sum(), y)
    return slope


@piece("squeeze and excitation", legal=False)
class SqueezeExcitation(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.down, self.up = nn.Conv2d(shape[0], 2, 1), nn.Conv2d(2, shape[0], 1)

    def forward(self, x):
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(gate))))


@piece("a LayerNorm", ranks=BOTH, legal=False)
def layer_norm(choose, shape):
    return nn.LayerNorm(shape[-1])


@piece("a GroupNorm", legal=False)
def group_norm(choose, shape):
    return nn.GroupNorm(2, shape[0])


@piece("a BatchNorm without statistics", legal=False)
def without_statistics(choose, shape):
    return nn.BatchNorm2d(shape[0], track_running_stats=False)


@piece("MultiheadAttention", legal=False)
class Attention(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.attention = nn.MultiheadAttention(shape[-1], 1, batch_first=True)

    def forward(self, x):
        tokens = x.mean(1)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


@piece("a weight made of the input", legal=False)
class Dynamic(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layer = nn.Linear(shape[0], shape[0])

    def forward(self, x):
        return x * torch.tanh(self.layer(x.mean((2, 3))))[:, :, None, None]


@piece("a recurrent layer", legal=False)
class Recurrent(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.rnn = nn.GRU(shape[-1], 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x.mean(1))[0]
