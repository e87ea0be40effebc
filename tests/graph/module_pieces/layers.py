"""Layers of PyTorch and of the package, as they are."""

import torch
from torch import nn

from gloro_fast.nn import Conv2d, GroupSort, MinMax, ResidualConv2d
from module_pieces.registry import BOTH, VECTORS, piece

ACTIVATIONS = (
    nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Identity, nn.PReLU, nn.Mish,
    nn.Hardswish, nn.ReLU6, nn.SELU, nn.CELU, nn.Hardtanh, nn.Softsign, nn.LogSigmoid, nn.Hardsigmoid,
)  # fmt: skip
POOLING = (
    lambda: nn.MaxPool2d(2), lambda: nn.MaxPool2d(3, 2, 1), lambda: nn.MaxPool2d(2, 1, ceil_mode=True),
    lambda: nn.AvgPool2d(2), lambda: nn.AvgPool2d(3, 1, 1), lambda: nn.AdaptiveAvgPool2d(2),
    lambda: nn.AdaptiveMaxPool2d((2, 3)), lambda: nn.AdaptiveAvgPool2d((None, 2)),
)  # fmt: skip
RESHAPING = (
    lambda: nn.ZeroPad2d(1), lambda: nn.ReflectionPad2d(1), lambda: nn.ReplicationPad2d((1, 0, 1, 0)),
    lambda: nn.CircularPad2d(1), lambda: nn.ConstantPad2d(1, 0.5), lambda: nn.PixelUnshuffle(2),
    lambda: nn.PixelShuffle(2), lambda: nn.Upsample(scale_factor=2), lambda: nn.Flatten(2),
    lambda: nn.ChannelShuffle(2),
)  # fmt: skip


def with_statistics(norm, choose):
    """Return a BatchNorm the statistics and weights that training might leave."""
    source = torch.Generator().manual_seed(choose.randrange(2**31))
    norm.running_mean.normal_(generator=source)
    norm.running_var.uniform_(0.3, 2.0, generator=source)
    if norm.affine:
        norm.weight.data.uniform_(0.5, 1.5, generator=source)
        norm.bias.data.normal_(generator=source)
    return norm


@piece("a convolution")
def convolution(choose, shape):
    c, groups = shape[0], choose.choice([1, 1, shape[0]])
    outputs, size = choose.choice([c, c, 2 * c]), choose.choice([1, 2, 3])
    if choose.random() < 0.4:
        return choose.choice([nn.Conv2d, Conv2d])(c, outputs, size, padding="same", groups=groups)
    padding, stride, dilation = choose.choice([0, 1]), choose.choice([1, 1, 2]), choose.choice([1, 1, 2])
    return nn.Conv2d(c, outputs, size, stride, padding, dilation, groups, bias=choose.random() < 0.7)


@piece("a convolution with another padding mode")
def padded_convolution(choose, shape):
    mode = choose.choice(["reflect", "replicate", "circular"])
    return nn.Conv2d(shape[0], shape[0], 3, padding=choose.choice([1, (1, 0)]), padding_mode=mode)


@piece("a transposed convolution")
def transposed(choose, shape):
    return nn.ConvTranspose2d(shape[0], shape[0], choose.choice([1, 2, 3]), choose.choice([1, 2]))


@piece("a residual convolution of the package")
def residual_convolution(choose, shape):
    return ResidualConv2d(shape[0], 3)


@piece("a dense layer", ranks=BOTH)
def dense(choose, shape):
    return nn.Linear(shape[-1], choose.choice([shape[-1], 6, 8]), bias=choose.random() < 0.7)


@piece("a BatchNorm2d")
def batch_norm(choose, shape):
    return with_statistics(nn.BatchNorm2d(shape[0], affine=choose.random() < 0.7), choose)


@piece("a BatchNorm1d", ranks=VECTORS)
def batch_norm_of_vectors(choose, shape):
    return with_statistics(nn.BatchNorm1d(shape[0], affine=choose.random() < 0.7), choose)


@piece("an activation", ranks=BOTH)
def activation(choose, shape):
    return choose.choice(ACTIVATIONS)()


@piece("sorting within groups", ranks=BOTH)
def sorting(choose, shape):
    return choose.choice([MinMax, lambda: GroupSort(2)])()


@piece("pooling")
def pooling(choose, shape):
    return choose.choice(POOLING)()


@piece("a layer that pads or reshapes")
def reshaping(choose, shape):
    return choose.choice(RESHAPING)()


@piece("a Dropout", ranks=BOTH)
def dropout(choose, shape):
    return nn.Dropout(0.3)


@piece("a Sequential of layers")
def sequential(choose, shape):
    c = shape[0]
    return nn.Sequential(
        nn.Conv2d(c, c, 3, padding=1, bias=False),
        with_statistics(nn.BatchNorm2d(c), choose),
        nn.ReLU(inplace=choose.random() < 0.5),
        nn.Sequential(nn.Identity(), nn.AvgPool2d(1)),
    )
