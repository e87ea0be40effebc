"""Layers whose settings or weights were changed after they were made: a rule reads what the forward pass reads."""

import copy
import math

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.bounds import METHODS, bound_network
from gloro_fast.errors import ArchitectureError
from gloro_fast.nn import Conv2d, ResidualConv2d
from gloro_fast.rules.registry import lipschitz_rule

# What the singular value decomposition of a matrix of this size may be off by, relatively, in float64.
SVD = 1e-13
ROW, IMAGE, VOLUME = (2, 7), (2, 5, 6), (1, 3, 4, 3)


def kernel(*shape):
    """A weight of another shape than the layer was made with; of one sign, so that a pixel left out is missed."""
    return nn.Parameter(torch.rand(*shape) + 0.1)


def used(norm):
    nn.init.uniform_(norm.running_var, 0.01, 2.0)
    return norm.eval()


EDITED = {
    "padding of a replicating layer": (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), {"padding": (0, 0)}, IMAGE
    ),
    "padding of a reflecting layer": (nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), {"padding": (3,)}, ROW),
    "padding of a circular layer": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), {"padding": (0, 2)}, IMAGE),
    "padding of a layer with zeros": (nn.Conv2d(2, 3, 3), {"padding": (2, 1)}, IMAGE),
    "padding by one number": (nn.Conv2d(2, 3, 3), {"padding": 2}, IMAGE),
    "padding as a list": (nn.Conv2d(2, 3, 3), {"padding": [1]}, IMAGE),
    "padding by name": (nn.Conv2d(2, 3, 4), {"padding": "same"}, IMAGE),
    "mode circular": (nn.Conv2d(2, 3, 3, padding=(1, 2)), {"padding_mode": "circular"}, IMAGE),
    "mode replicate": (nn.Conv3d(1, 2, 3, padding=(0, 1, 1)), {"padding_mode": "replicate"}, VOLUME),
    "mode zeros": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), {"padding_mode": "zeros"}, IMAGE),
    "amounts that differ": (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        {"_reversed_padding_repeated_twice": [0, 2, 3, 1]},
        IMAGE,
    ),
    "stride": (nn.Conv2d(2, 3, 3, padding=1), {"stride": 2}, IMAGE),
    "stride of a row": (nn.Conv1d(2, 3, 3, stride=2), {"stride": 1}, ROW),
    "dilation": (nn.Conv3d(1, 2, 2, padding=1), {"dilation": 2}, VOLUME),
    "stride and dilation of a circular layer": (
        nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular"),
        {"stride": 2, "dilation": 2},
        IMAGE,
    ),
    "groups": (nn.Conv2d(2, 4, 3), {"groups": 2, "weight": kernel(4, 1, 3, 3)}, IMAGE),
    "larger kernel, same": (nn.Conv2d(2, 2, 3, padding="same"), {"weight": kernel(2, 2, 5, 4)}, IMAGE),
    "smaller kernel, same": (
        nn.Conv1d(2, 2, 5, padding="same", dilation=2), {"weight": kernel(3, 2, 2), "bias": None}, ROW
    ),
    "larger kernel, valid": (nn.Conv2d(2, 2, 3, padding="valid"), {"weight": kernel(2, 2, 4, 4)}, IMAGE),
    "larger kernel, zeros": (nn.Conv2d(2, 2, 1, padding=1), {"weight": kernel(5, 2, 3, 3), "bias": None}, IMAGE),
    "larger kernel, same and circular": (
        nn.Conv2d(2, 2, 3, padding="same", padding_mode="circular"),
        {"weight": kernel(2, 2, 5, 3)},
        IMAGE,
    ),
    "larger kernel, same and reflecting": (
        nn.Conv2d(2, 2, 2, padding="same", padding_mode="reflect"),
        {"weight": kernel(2, 2, 3, 3)},
        IMAGE,
    ),
    "TensorFlow's same, larger kernel": (Conv2d(2, 2, 3, 2, padding="same"), {"weight": kernel(2, 2, 5, 4)}, IMAGE),
    "TensorFlow's same, stride and dilation": (Conv2d(2, 2, 3, padding="same"), {"stride": 2, "dilation": 2}, IMAGE),
    "TensorFlow's same, mode": (Conv2d(2, 2, 3, padding="same"), {"padding_mode": "circular", "padding": 5}, IMAGE),
    "residual, padding": (ResidualConv2d(2), {"padding": 0, "stride": 2}, IMAGE),
    "residual, same": (ResidualConv2d(2, 5), {"padding": (0, 0), "same": True}, IMAGE),
    "residual, identity": (ResidualConv2d(2), {"identity": torch.ones(2, 2, 3, 3)}, IMAGE),
    "transposed, larger kernel": (
        nn.ConvTranspose2d(2, 2, 2, stride=2, padding=1), {"weight": kernel(2, 3, 4, 3), "bias": None}, IMAGE
    ),
    "transposed, numbers": (
        nn.ConvTranspose2d(2, 2, 3, padding=(1, 1)),
        {"stride": 3, "dilation": 2, "output_padding": 2},
        IMAGE,
    ),
    "transposed, groups": (
        nn.ConvTranspose1d(2, 2, 3, stride=2),
        {"groups": 2, "weight": kernel(2, 3, 4), "bias": None, "stride": [3]},
        ROW,
    ),
    "dense": (nn.Linear(3, 2), {"weight": kernel(4, 6), "bias": None}, (6,)),
    "average, kernel": (nn.AvgPool2d(2), {"kernel_size": 3}, IMAGE),
    "average, no stride": (nn.AvgPool2d(2, 1), {"stride": None}, IMAGE),
    "average, lists": (nn.AvgPool2d(2), {"kernel_size": [3, 2], "stride": [1, 2], "padding": [1]}, IMAGE),
    "average, padding and ends": (nn.AvgPool1d(3), {"padding": 1, "ceil_mode": True, "stride": 2}, ROW),
    "average, without padding": (nn.AvgPool1d(3, 1, 1), {"count_include_pad": False}, ROW),
    "average, divisor": (nn.AvgPool2d(3, 1), {"divisor_override": -2}, IMAGE),
    "average of halves": (nn.AdaptiveAvgPool2d(1), {"output_size": [4, None]}, IMAGE),
    "eps": (used(nn.BatchNorm2d(2)), {"eps": 1e-12}, IMAGE),
    "variance": (used(nn.BatchNorm1d(6)), {"running_var": torch.full((6,), 1e-6)}, (6,)),
    "no gain": (used(nn.BatchNorm1d(6)), {"weight": None}, (6,)),
    "size": (nn.Upsample(size=3), {"size": (7, 11)}, IMAGE),
    "factor": (nn.Upsample(scale_factor=2), {"scale_factor": 2.6, "mode": "nearest-exact"}, IMAGE),
    "factor for size": (nn.UpsamplingNearest2d(size=3), {"size": None, "scale_factor": (3.0, 1.5)}, IMAGE),
}  # fmt: skip
MAXIMA = {
    "kernel": (nn.MaxPool2d(2), {"kernel_size": 3}, (1, 6, 7)),
    "stride": (nn.MaxPool2d(3), {"stride": 1}, (1, 6, 7)),
    "no stride": (nn.MaxPool2d(3, 1), {"stride": None}, (1, 6, 7)),
    "dilation": (nn.MaxPool2d((3, 2), 1), {"dilation": 2}, (1, 6, 7)),
    "ends": (nn.MaxPool1d(3, 2), {"ceil_mode": True, "padding": (1,)}, (1, 6)),
    "outputs": (nn.AdaptiveMaxPool2d(1), {"output_size": (4, 3)}, (1, 6, 7)),
}


def edited(layer, settings):
    layer = copy.deepcopy(layer)
    for name, value in settings.items():
        setattr(layer, name, value)
    return layer.double().eval()


@pytest.mark.parametrize("name", EDITED)
def test_a_linear_layer_is_bounded_as_it_computes(name):
    layer, settings, shape = EDITED[name]
    layer = edited(layer, settings)
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        matrix = (layer(basis) - layer(torch.zeros_like(basis))).flatten(1)
        rule = lipschitz_rule("layer", layer, shape)
    exact = torch.linalg.matrix_norm(matrix, 2).item()
    for method in METHODS:
        found = bound_network([("layer", rule)], method)
        assert found.kind == "estimate" or found.lipschitz >= exact * (1 - SVD)
    loose = isinstance(layer, nn.Conv3d) or getattr(layer, "padding_mode", "zeros") != "zeros"
    if not loose or isinstance(layer, Conv2d):
        assert bound_network([("layer", rule)], "tight").lipschitz <= exact * (1 + 2e-6)


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima_are_counted_as_they_are_taken(name):
    layer, settings, shape = MAXIMA[name]
    layer, size = edited(layer, settings), math.prod(shape)
    x = torch.rand(size, *shape, dtype=torch.float64)
    step = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    moved = (layer(x + 3 * step) - layer(x + 2 * step)).flatten(1).norm(dim=1).max().item()
    assert moved * (1 - SVD) <= lipschitz_rule("layer", layer, shape).value <= moved * (1 + SVD)


@pytest.mark.parametrize("name", EDITED)
def test_a_net_takes_an_edited_layer(name):
    layer, settings, shape = EDITED[name]
    layer = edited(layer, settings).float()
    outputs = layer(torch.zeros(1, *shape)).numel()
    net = GloRoNet(nn.Sequential(layer, nn.Flatten(), nn.Linear(outputs, 2)), 0.1, shape)
    assert net.train()(torch.rand(4, *shape)).isfinite().all()
    assert 0 < net.eval().lipschitz < math.inf


@pytest.mark.parametrize(
    ("layer", "settings", "message"),
    [
        (
            nn.Conv2d(2, 3, 3),
            {"padding_mode": "constant"},
            "padding_mode is 'constant'; choose 'zeros', 'circular', 'reflect' or 'replicate'",
        ),
        (
            nn.Conv2d(2, 3, 3, padding_mode="circular"),
            {"_reversed_padding_repeated_twice": [-1, 0, 0, 0]},
            "_reversed_padding_repeated_twice is [-1, 0, 0, 0]; make a layer with the padding that is wanted",
        ),
        (
            nn.Conv2d(2, 3, 3, padding_mode="replicate"),
            {"_reversed_padding_repeated_twice": [1, 1]},
            "_reversed_padding_repeated_twice is [1, 1]; make a layer with the padding that is wanted",
        ),
    ],
)
def test_what_no_layer_is_made_with_is_refused(layer, settings, message):
    with pytest.raises(ArchitectureError) as caught:
        lipschitz_rule("features.0", edited(layer, settings), IMAGE)
    assert str(caught.value) == f"features.0: {message}"


def test_an_executed_certificate_follows_the_settings():
    torch.manual_seed(0)
    layer = ResidualConv2d(2)
    layer.padding, layer.stride = (0, 0), (2, 2)
    head = nn.Linear(layer(torch.zeros(1, *IMAGE)).numel(), 2)
    net = GloRoNet(nn.Sequential(layer, nn.Flatten(), head), 0.001, IMAGE).eval()
    x = torch.rand(8, *IMAGE)
    real, executed = net.certify(x), net.certify(x, executed=True)
    assert (executed.radius > 0).all()
    assert (executed.radius < real.radius).all()
