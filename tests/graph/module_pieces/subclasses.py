"""Subclasses of layers: some inherit forward, some compute something else."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from module_pieces.layers import with_statistics
from module_pieces.registry import BOTH, change, piece


class InheritingConv(nn.Conv2d):
    """A convolution with defaults of its own."""

    def __init__(self, inputs, outputs, size=3):
        super().__init__(inputs, outputs, size, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(self.weight)
        self.weight.data /= 3


class StandardisedConv(nn.Conv2d):
    """Weight standardisation."""

    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True) * math.sqrt(weight[0].numel()) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class StandardisedByBatchNorm(nn.Conv2d):
    """Weight standardisation as timm has it."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight / 6, self.bias, self.stride, self.padding)


class ScaledConv(nn.Conv2d):
    """A convolution times a number."""

    gain = 0.5

    def forward(self, x):
        return super().forward(x) * self.gain

    def mutate(self):
        return change(self, "gain", 4.0)


class OverriddenConvForward(nn.Conv2d):
    """A convolution that overrides the part of it that its forward calls."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 3.0, bias)


class SamePaddedConv(nn.Conv2d):
    """Padding as TensorFlow has it."""

    def forward(self, x):
        height, width = x.shape[-2:]
        pads = []
        for size, kernel, stride in ((width, self.kernel_size[1], self.stride[1]), (height, self.kernel_size[0], 1)):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if any(pads):
            x = F.pad(x, pads)
        return F.conv2d(x, self.weight, self.bias, self.stride)


class NormalisedLinear(nn.Linear):
    """A dense layer with rows of norm 1."""

    def forward(self, x):
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


class MaskedLinear(nn.Linear):
    """A dense layer with a mask."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.register_buffer("mask", (torch.rand(outputs, inputs) > 0.3).float())

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class BatchNormAct(nn.BatchNorm2d):
    """BatchNorm and its activation, as timm has them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self.momentum,
            self.eps,
        )
        return self.act(x)


class FrozenBatchNorm(nn.Module):
    """BatchNorm as torchvision's detectors have it."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.rand(channels) + 0.5)
        self.register_buffer("bias", torch.randn(channels))
        self.register_buffer("running_mean", torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x):
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class SteepReLU(nn.ReLU):
    """A ReLU that is none."""

    def forward(self, x):
        return super().forward(x) * 3.0


class InheritingReLU(nn.ReLU):
    """A ReLU by another name."""


class GrowingSequential(nn.Sequential):
    """A Sequential that adds what it got, as its forward says."""

    def forward(self, x):
        y = super().forward(x)
        return x + y * 0.5


class InheritingSequential(nn.Sequential):
    """A block with a constructor of its own."""

    def __init__(self, inputs, outputs):
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6())


class Passing(nn.Identity):
    """An Identity that is none."""

    def forward(self, x):
        return -2.0 * x


class Flat(nn.Flatten):
    """A Flatten that scales."""

    def forward(self, x):
        return super().forward(x) * 0.5


class Dropping(nn.Dropout):
    """A Dropout that inherits."""


LAYERS = {
    "a Conv2d that inherits forward": lambda c, d: InheritingConv(c, 2 * c),
    "weight standardisation": lambda c, d: StandardisedConv(c, c, 3, padding=1),
    "weight standardisation by batch_norm": lambda c, d: StandardisedByBatchNorm(c, c, 3, padding=1),
    "a Conv2d that scales": lambda c, d: ScaledConv(c, c, 3, padding=1),
    "a Conv2d with a _conv_forward": lambda c, d: OverriddenConvForward(c, c, 1),
    "a Conv2d padded as in TensorFlow": lambda c, d: SamePaddedConv(c, c, 2),
    "a Linear with normalised rows": lambda c, d: NormalisedLinear(d, 6),
    "a Linear with a mask": lambda c, d: MaskedLinear(d, 6),
    "a BatchNorm2d with an activation": lambda c, d: BatchNormAct(c),
    "a BatchNorm of buffers": lambda c, d: FrozenBatchNorm(c),
    "a BatchNorm2d that inherits forward": lambda c, d: type("Norm", (nn.BatchNorm2d,), {})(c),
    "a ReLU that inherits forward": lambda c, d: InheritingReLU(inplace=False),
    "a ReLU that scales": lambda c, d: SteepReLU(),
    "a Sequential that adds": lambda c, d: GrowingSequential(nn.Conv2d(c, c, 1), nn.Tanh()),
    "a Sequential that inherits forward": lambda c, d: InheritingSequential(c, c),
    "an Identity that scales": lambda c, d: Passing(),
    "a Flatten that scales": lambda c, d: Flat(2),
    "a Dropout that inherits forward": lambda c, d: Dropping(0.2),
    "a MaxPool2d that inherits forward": lambda c, d: type("Pool", (nn.MaxPool2d,), {})(2, 1),
}


def _register(name, make):
    @piece(name)
    def subclass(choose, shape):
        module = make(shape[0], shape[-1])
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                with_statistics(layer, choose)
        return module


for _name, _make in LAYERS.items():
    _register(_name, _make)


@piece("a subclass of a Linear with more than one input", ranks=BOTH)
class Optional(nn.Linear):
    def __init__(self, choose, shape):
        super().__init__(shape[-1], 6)

    def forward(self, x, scale=None, *, bias=True):
        y = F.linear(x, self.weight, self.bias if bias else None)
        return y if scale is None else y * scale
