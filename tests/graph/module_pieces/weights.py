"""Weights made of parameters: parametrized, normalised, repeated, masked, shared, kept in lists and buffers."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from module_pieces.layers import with_statistics
from module_pieces.registry import BOTH, VECTORS, piece, written


class Absolute(nn.Module):
    """A parametrization: no negative weights."""

    def forward(self, weight):
        return weight.abs()


class Halved(nn.Module):
    """A parametrization with a number."""

    def __init__(self):
        super().__init__()
        self.factor = 0.5

    def forward(self, weight):
        return weight * self.factor


class Symmetric(nn.Module):
    """A parametrization by the upper triangle."""

    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(-1, -2)


PARAMETRIZED = {
    "orthogonal Linear": lambda c, d: parametrizations.orthogonal(nn.Linear(d, d)),
    "orthogonal Linear by Householder": lambda c, d: parametrizations.orthogonal(
        nn.Linear(d, 4), "weight", "householder"
    ),
    "orthogonal Linear by Cayley": lambda c, d: parametrizations.orthogonal(nn.Linear(d, d), "weight", "cayley"),
    "spectral_norm of a Linear": lambda c, d: parametrizations.spectral_norm(nn.Linear(d, 6)),
    "spectral_norm of a Conv2d": lambda c, d: parametrizations.spectral_norm(nn.Conv2d(c, c, 3, padding=1)),
    "weight_norm of a Linear": lambda c, d: parametrizations.weight_norm(nn.Linear(d, 6)),
    "weight_norm of a Conv2d": lambda c, d: parametrizations.weight_norm(nn.Conv2d(c, c, 3, padding=1), dim=0),
    "a parametrization of its own": lambda c, d: _parametrized(nn.Linear(d, 6), Absolute()),
    "two parametrizations": lambda c, d: _parametrized(nn.Conv2d(c, c, 3), Absolute(), Halved()),
    "a symmetric Linear": lambda c, d: _parametrized(nn.Linear(d, d), Symmetric()),
    "a parametrized bias": lambda c, d: _parametrized(nn.Linear(d, 6), Halved(), name="bias"),
}


def _parametrized(layer, *parametrizations, name="weight"):
    for parametrization in parametrizations:
        parametrize.register_parametrization(layer, name, parametrization)
    return layer


def _register(name, make):
    @piece(name)
    def parametrized(choose, shape):
        return make(shape[0], shape[-1])


for _name, _make in PARAMETRIZED.items():
    _register(_name, _make)


@piece("a parametrized parameter of its own", ranks=BOTH)
class ParametrizedOwn(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, shape[-1]) / 3)
        parametrize.register_parametrization(self, "weight", Absolute())

    def forward(self, x):
        return F.linear(x, self.weight)


def parameters(self, choose, shape):
    c, d = shape[0], shape[-1]
    self.weight = nn.Parameter(torch.randn(c, c) / math.sqrt(c))
    self.dense = nn.Parameter(torch.randn(6, d) / math.sqrt(d))
    self.kernel = nn.Parameter(torch.randn(c, 1, 3, 3) / 3)
    self.scale, self.log_scale = nn.Parameter(torch.rand(c)), nn.Parameter(torch.full((1,), -0.3))
    self.bias = nn.Parameter(torch.randn(6))
    self.register_buffer("mask", (torch.rand(6, d) > 0.3).float())
    self.register_buffer("mean", torch.randn(c))
    self.register_buffer("var", torch.rand(c) + 0.5)


@written("F.linear with a normalised weight", parameters, ranks=BOTH)
def normalised(self, x):
    return F.linear(x, F.normalize(self.dense, dim=1), self.bias)


@written("F.linear with a masked weight", parameters, ranks=BOTH)
def masked(self, x):
    return F.linear(x, self.dense * self.mask)


@written("x @ weight.t()", parameters, ranks=BOTH)
def product(self, x):
    return x @ self.dense.t() + self.bias


@written("torch.matmul with a transposed view", parameters, ranks=BOTH)
def transposed(self, x):
    return torch.matmul(x, self.dense.transpose(0, 1).contiguous())


@written("weight @ pixels", parameters, legal=False)
def from_the_left(self, x):
    return (self.weight @ x.flatten(2)).view(x.shape)


@written("torch.addmm", parameters, ranks=VECTORS, legal=False)
def addmm(self, x):
    return torch.addmm(self.bias, x, self.dense.t())


@written("einsum with a weight", parameters, legal=False)
def einsum(self, x):
    return torch.einsum("bchw,oc->bohw", x, self.weight)


@written("tensordot with a weight", parameters, ranks=BOTH, legal=False)
def tensordot(self, x):
    return torch.tensordot(x, self.dense, dims=([x.ndim - 1], [1]))


@written("a depthwise kernel", parameters)
def depthwise(self, x):
    return F.conv2d(x, self.kernel, padding=1, groups=x.shape[1])


@written("a repeated kernel", parameters)
def repeated(self, x):
    return F.conv2d(x, self.kernel.repeat(1, x.shape[1], 1, 1) / x.shape[1], padding=1)


@written("an expanded kernel", parameters)
def expanded(self, x):
    kernel = self.kernel[:1].expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, groups=x.shape[1], padding=(1, 0))


@written("a kernel made of two", parameters)
def summed_kernels(self, x):
    kernel = self.kernel + F.pad(self.scale.view(-1, 1, 1, 1), (1, 1, 1, 1))
    return F.conv2d(x, kernel, padding=1, groups=x.size(1))


@written("conv_transpose2d", parameters)
def transposed_convolution(self, x):
    return F.conv_transpose2d(x, self.kernel, stride=2, groups=x.shape[1])


@written("identity plus a weight", parameters)
def residual_weight(self, x):
    weight = torch.eye(x.shape[1]) + self.weight
    return F.conv2d(x, weight[:, :, None, None])


@written("an orthogonal weight by qr", parameters, legal=False)
def qr(self, x):
    return F.conv2d(x, torch.linalg.qr(self.weight)[0][:, :, None, None])


@written("a weight by matrix_exp", parameters, legal=False)
def exponential(self, x):
    skew = self.weight - self.weight.t()
    return F.conv2d(x, torch.matrix_exp(skew).view(*skew.shape, 1, 1))


@written("a Householder reflection", parameters)
def householder(self, x):
    v = self.scale / self.scale.norm()
    return F.conv2d(x, (torch.eye(len(v)) - 2 * torch.outer(v, v))[:, :, None, None])


@written("a weight divided by its norm", parameters, ranks=BOTH)
def divided(self, x):
    return F.linear(x, self.dense / self.dense.norm(dim=1, keepdim=True).clamp(min=1.0))


@written("a weight divided by its singular value", parameters, ranks=BOTH, legal=False)
def by_singular_value(self, x):
    return F.linear(x, self.dense / torch.linalg.matrix_norm(self.dense, 2))


@written("a scale of channels", parameters)
def layer_scale(self, x):
    return x + self.scale.view(1, -1, 1, 1) * x.tanh()


@written("a scale of channels by None", parameters)
def scale_by_none(self, x):
    return x * self.scale[None, :, None, None] + self.mean[:, None, None]


@written("exp of a parameter", parameters, ranks=BOTH)
def exponential_scale(self, x):
    return x * self.log_scale.exp()


@written("divided by softplus of a parameter", parameters, ranks=BOTH)
def softplus_scale(self, x):
    return x / (F.softplus(self.log_scale) + 1)


@written("a gate made of a parameter", parameters, ranks=BOTH)
def parameter_gate(self, x):
    gate = torch.sigmoid(self.log_scale)
    return gate * x + (1 - gate) * x.tanh()


@written("softmax over parameters", parameters)
def mixture(self, x):
    first, second = torch.softmax(self.scale[:2], dim=0)
    return first * x + second * F.relu(x)


@written("unbound parameters", parameters)
def unbound(self, x):
    a, b = self.scale[:2].unbind()
    return x * a + b


@written("F.batch_norm with buffers", parameters)
def functional_norm(self, x):
    return F.batch_norm(x, self.mean, self.var, self.scale, None, False, 0.1, 1e-5)


@written("statistics by hand", parameters)
def normalised_by_hand(self, x):
    return (x - self.mean.view(1, -1, 1, 1)) / (self.var.view(1, -1, 1, 1) + 1e-3).sqrt()


@written("F.prelu", parameters)
def prelu(self, x):
    return F.prelu(x, self.scale)


@written("an image's mean and std", ranks=(3,))
def normalised_input(self, x):
    mean = torch.tensor([0.4] * x.shape[1]).view(1, -1, 1, 1)
    std = torch.tensor([1.5] * x.shape[1]).view(1, -1, 1, 1)
    return (x - mean) / std


@piece("a ParameterList", ranks=BOTH)
class OfParameterList(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = nn.ParameterList([nn.Parameter(torch.rand(1)) for _ in range(3)])

    def forward(self, x):
        return sum(gain * x.roll(i, 1) for i, gain in enumerate(self.gains))


@piece("a ParameterDict", ranks=BOTH)
class OfParameterDict(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = nn.ParameterDict({"first": nn.Parameter(torch.rand(1)), "second": nn.Parameter(torch.rand(1))})

    def forward(self, x):
        for name, gain in self.gains.items():
            x = x * gain if name == "first" else x + gain
        return x


@piece("a parameter that may be missing", ranks=BOTH)
class Missing(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, shape[-1]) / 3)
        if choose.random() < 0.5:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x):
        y = F.linear(x, self.weight)
        return y if self.bias is None else y + self.bias


@piece("a layer called twice", ranks=BOTH)
class Twice(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layer = nn.Linear(shape[-1], shape[-1])

    def forward(self, x):
        return self.layer(F.relu(self.layer(x)))


@piece("two layers that share a weight", ranks=BOTH)
class Tied(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.first, self.second = nn.Linear(shape[-1], shape[-1]), nn.Linear(shape[-1], shape[-1])
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


@piece("a weight and its transpose", ranks=BOTH)
class Transposed(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layer = nn.Linear(shape[-1], 5)

    def forward(self, x):
        return F.linear(F.relu(self.layer(x)), self.layer.weight.t())


@piece("a BatchNorm called as a function")
class FunctionalNorm(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.bn = with_statistics(nn.BatchNorm2d(shape[0]), choose)

    def forward(self, x):
        bn = self.bn
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.training, bn.momentum, bn.eps)


@piece("a convolution fused with its BatchNorm")
class Fused(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
        self.bn = with_statistics(nn.BatchNorm2d(shape[0]), choose)

    def forward(self, x):
        if self.training:
            return self.bn(self.conv(x))
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        weight = self.conv.weight * scale.reshape(-1, 1, 1, 1)
        return F.conv2d(x, weight, self.bn.bias - self.bn.running_mean * scale, padding=1)
