"""Layers of every type that has a rule, in many settings, each with the shape of its input."""

import torch
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast.nn import (
    BCOP,
    BROConv2d,
    CayleyConv2d,
    CayleyLinear,
    CholeskyLinear,
    Conv2d,
    GroupSort,
    Householder,
    MinMax,
    Normalize,
    PairwiseMinMax,
    ResidualConv2d,
    Scale,
)

torch.manual_seed(0)  # the same weights whatever was collected before
VECTOR, ROW, IMAGE, VOLUME = (6,), (2, 9), (2, 5, 6), (2, 3, 4, 5)


def used(norm):
    """A normalization with the statistics and parameters of some training."""
    nn.init.uniform_(norm.running_var, 0.01, 2.0)
    nn.init.normal_(norm.running_mean)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.eval()


def angled(layer):
    nn.init.uniform_(layer.theta, -7.0, 7.0)
    return layer


def learned(layer, *slopes):
    layer.weight.data = torch.tensor(slopes)
    return layer


MAPS = [
    (nn.Linear(6, 3), VECTOR),
    (nn.Linear(6, 3), (2, 6)),
    (parametrizations.weight_norm(nn.Linear(6, 3)), VECTOR),
    (nn.Conv1d(2, 4, 3, stride=2, padding=1), ROW),
    (nn.Conv1d(2, 4, 4, padding="same", dilation=2, groups=2), ROW),
    (nn.Conv2d(2, 4, 3, stride=2, padding=1), IMAGE),
    (nn.Conv2d(2, 4, (2, 3), padding="same"), IMAGE),
    (nn.Conv2d(2, 4, 2, padding="valid", groups=2, dilation=2), IMAGE),
    (Conv2d(2, 4, 4, 2, padding="same"), (2, 7, 7)),
    (Conv2d(2, 4, 3, 2, padding=(0, 2)), (2, 7, 7)),
    (ResidualConv2d(2), IMAGE),
    (ResidualConv2d(2, 5, bias=False), IMAGE),
    (CayleyLinear(6, 3), VECTOR),
    (CholeskyLinear(6, 8), VECTOR),
    (BCOP(2, 3, 3), IMAGE),
    (BCOP(2, 3, 3, 2, padding_mode="zeros"), (2, 6, 4)),
    (nn.Conv3d(2, 2, 2, padding=(0, 1, 0)), VOLUME),
    (nn.Conv1d(2, 4, 3, stride=2, padding=2, padding_mode="circular"), ROW),
    (nn.Conv2d(2, 4, (3, 2), padding="same", padding_mode="circular"), IMAGE),
    (nn.Conv2d(2, 4, 3, padding=(1, 2), dilation=2, padding_mode="circular"), IMAGE),
    (nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1), ROW),
    (nn.ConvTranspose1d(2, 4, 3, stride=3, output_padding=2), ROW),
    (nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1), IMAGE),
    (nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False), IMAGE),
    (nn.ConvTranspose2d(2, 4, (2, 3), dilation=(3, 1), output_padding=(2, 0)), IMAGE),
    (nn.ConvTranspose2d(2, 4, 4, stride=2, padding=(1, 2), output_padding=(0, 1)), IMAGE),
    (nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 2, 2, 3)),
]

# Their rule gives a map with the same norm: the matrices of all frequencies.
BY_FREQUENCY = [
    (CayleyConv2d(2, 3, 3), IMAGE),
    (CayleyConv2d(2, 3, 2, 2, bias=False), (2, 6, 4)),
    (BROConv2d(2, 3, 3), IMAGE),
    (BROConv2d(3, 2, 2, 2, bias=False), (3, 6, 4)),
]

# Convolutions whose padding copies pixels of the same side: bounded as padding and convolution, one after the other.
COPYING = [
    (nn.Conv1d(2, 4, 3, padding=1, padding_mode="reflect"), ROW),
    (nn.Conv1d(2, 4, 5, stride=2, padding=2, padding_mode="replicate"), ROW),
    (nn.Conv1d(2, 4, 4, padding="same", dilation=2, padding_mode="reflect"), ROW),
    (nn.Conv1d(2, 4, 4, padding="same", dilation=2, padding_mode="replicate"), ROW),
    (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), IMAGE),
    (nn.Conv2d(2, 4, 3, padding=1, padding_mode="replicate"), IMAGE),
    (nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False, padding_mode="reflect"), IMAGE),
    (nn.Conv2d(2, 4, (3, 5), padding=(1, 2), groups=2, padding_mode="replicate"), IMAGE),
    (Conv2d(2, 4, 3, 2, padding=(0, 2), padding_mode="reflect"), (2, 7, 7)),
    (nn.Conv2d(2, 4, 3, padding_mode="replicate"), IMAGE),
    (nn.Conv3d(1, 2, 2, padding=1, padding_mode="replicate"), (1, 3, 4, 3)),
]

SHAPES = [
    (nn.Identity(), VECTOR),
    (nn.Flatten(), IMAGE),
    (nn.Flatten(2), IMAGE),
    (nn.Unflatten(1, (2, 3)), VECTOR),
    (nn.PixelShuffle(2), (4, 2, 3)),
    (nn.PixelUnshuffle(2), (1, 4, 6)),
    (nn.ChannelShuffle(2), (4, 2, 3)),
    (nn.Dropout(), VECTOR),
    (nn.Dropout1d(), ROW),
    (nn.Dropout2d(), IMAGE),
    (nn.Dropout3d(), VOLUME),
    (nn.AlphaDropout(), VECTOR),
    (nn.FeatureAlphaDropout(), IMAGE),
    (nn.ZeroPad1d((1, 2)), ROW),
    (nn.ZeroPad2d((1, 0, -1, 2)), IMAGE),
    (nn.ZeroPad3d(1), (1, 2, 2, 2)),
    (nn.ConstantPad1d(2, 7.0), ROW),
    (nn.ConstantPad2d(1, -3.0), IMAGE),
    (nn.ConstantPad3d(1, 2.0), (1, 2, 2, 2)),
    (nn.ReflectionPad1d((3, 1)), ROW),
    (nn.ReflectionPad2d(1), IMAGE),
    (nn.ReflectionPad2d((2, 2, 2, 2)), (1, 3, 4)),
    (nn.ReflectionPad3d(1), (1, 3, 2, 4)),
    (nn.ReplicationPad1d((0, 3)), ROW),
    (nn.ReplicationPad2d((1, 0, 2, 1)), IMAGE),
    (nn.ReplicationPad3d(1), (1, 2, 1, 2)),
    (nn.CircularPad1d(4), ROW),
    (nn.CircularPad2d((1, 2, 5, 0)), IMAGE),
    (nn.CircularPad3d(1), (1, 2, 2, 2)),
    (nn.Upsample(scale_factor=3), ROW),
    (nn.Upsample(scale_factor=(2, 3)), (1, 4, 5)),
    (nn.Upsample(size=(7, 8), mode="nearest-exact"), (1, 4, 5)),
    (nn.Upsample(scale_factor=1.6), (1, 5, 3)),
    (nn.Upsample(scale_factor=0.5), (1, 4, 6)),
    (nn.UpsamplingNearest2d(scale_factor=2), (1, 3, 4)),
]

SCALES = [
    (used(nn.BatchNorm1d(6)), VECTOR),
    (used(nn.BatchNorm1d(2, affine=False)), ROW),
    (used(nn.BatchNorm2d(2)), IMAGE),
    (used(nn.BatchNorm3d(2)), (2, 1, 2, 3)),
    (used(nn.SyncBatchNorm(2)), IMAGE),
    (Normalize([0.4, 0.5], [0.2, 0.3]), IMAGE),
    (Normalize(0.1307, 0.3081), IMAGE),
    (Scale(-2.5), VECTOR),
]

AVERAGES = [
    (nn.AvgPool1d(3), ROW),
    (nn.AvgPool1d(3, 1, padding=1), ROW),
    (nn.AvgPool1d(4, 3, padding=2, ceil_mode=True, count_include_pad=False), ROW),
    (nn.AvgPool2d(2), (1, 6, 6)),
    (nn.AvgPool2d(3, 2, padding=1), (1, 7, 8)),
    (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), (1, 7, 8)),
    (nn.AvgPool2d((3, 2), (2, 3), padding=(1, 0), ceil_mode=True), (1, 6, 7)),
    (nn.AvgPool2d(3, 1, divisor_override=4), (1, 5, 5)),
    (nn.AvgPool3d(2, 1), (1, 3, 4, 3)),
    (nn.AdaptiveAvgPool1d(4), ROW),
    (nn.AdaptiveAvgPool2d(1), (2, 4, 5)),
    (nn.AdaptiveAvgPool2d((None, 3)), (1, 4, 7)),
    (nn.AdaptiveAvgPool2d([5, 6]), (1, 3, 4)),
    (nn.AdaptiveAvgPool3d(2), (1, 3, 4, 5)),
]

MAXIMA = [
    (nn.MaxPool1d(2), ROW),
    (nn.MaxPool1d(3, 1, padding=1), ROW),
    (nn.MaxPool2d(2), (1, 6, 6)),
    (nn.MaxPool2d(3, 2, padding=1), (1, 7, 8)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (1, 6, 6)),
    (nn.MaxPool2d((3, 2), (1, 2), dilation=(2, 1)), (1, 7, 6)),
    (nn.MaxPool2d(2, 3), (1, 6, 6)),
    (nn.MaxPool3d(2, 1), (1, 3, 3, 3)),
    (nn.AdaptiveMaxPool1d(4), ROW),
    (nn.AdaptiveMaxPool2d((2, None)), (1, 5, 4)),
    (nn.AdaptiveMaxPool3d(2), (1, 3, 4, 3)),
]

SLOPES = [
    (nn.ReLU(), VECTOR),
    (nn.ReLU6(), VECTOR),
    (nn.Hardtanh(-2.0, 0.5), VECTOR),
    (nn.Tanh(), VECTOR),
    (nn.Softsign(), VECTOR),
    (nn.Tanhshrink(), VECTOR),
    (nn.Softshrink(), VECTOR),
    (nn.LogSigmoid(), VECTOR),
    (nn.Sigmoid(), VECTOR),
    (nn.Hardsigmoid(), VECTOR),
    (nn.Hardswish(), VECTOR),
    (nn.GELU(), VECTOR),
    (nn.GELU("tanh"), VECTOR),
    (nn.SiLU(), VECTOR),
    (nn.Mish(), VECTOR),
    (nn.SELU(), VECTOR),
    (nn.LeakyReLU(0.1), VECTOR),
    (nn.LeakyReLU(-1.5), VECTOR),
    (learned(nn.PReLU(), 0.25), VECTOR),
    (learned(nn.PReLU(2), 0.25, -1.75), IMAGE),
    (nn.ELU(), VECTOR),
    (nn.ELU(1.7), VECTOR),
    (nn.ELU(-2.0), VECTOR),
    (nn.CELU(0.5), VECTOR),
    (nn.Softplus(), VECTOR),
    (nn.Softplus(beta=3.0, threshold=30.0), VECTOR),
]

SORTS = [
    (MinMax(), VECTOR),
    (PairwiseMinMax(), (5,)),
    (GroupSort(3), (6, 2)),
    (GroupSort(2), IMAGE),
    (angled(Householder(6)), VECTOR),
    (angled(Householder(2)), IMAGE),
]

SOFTMAX = [(nn.Softmax(dim=1), (4,)), (nn.LogSoftmax(dim=1), (4,))]

LINEAR = [*MAPS, *BY_FREQUENCY, *COPYING, *SHAPES, *SCALES, *AVERAGES]
NONLINEAR = [*MAXIMA, *SLOPES, *SORTS, *SOFTMAX]
SAMPLES = [(layer.eval(), shape) for layer, shape in (*LINEAR, *NONLINEAR)]


def label(value):
    return repr(value).splitlines()[0] if isinstance(value, nn.Module) else str(value)
