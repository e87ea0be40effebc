"""Each rule against the layer itself: by its matrix where it is linear, by sampling where it is not."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast.errors import ArchitectureError, UnknownLayerError
from gloro_fast.nn import Conv2d, LinearMap, LipschitzConstant, MinMax, register_lipschitz_rule, rules
from gloro_fast.nn.rules import lipschitz_rule

LINEAR = [
    (nn.Linear(5, 3), (5,)),
    (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 5, 6)),
    (nn.Conv2d(2, 4, (2, 3), padding="same"), (2, 5, 6)),
    (nn.Conv2d(2, 4, 2, padding="valid", groups=2, dilation=2), (2, 5, 6)),
    (Conv2d(2, 4, 4, 2, padding="same"), (2, 7, 7)),
    (Conv2d(2, 4, 3, 2, padding=(0, 2)), (2, 7, 7)),
    (parametrizations.weight_norm(nn.Linear(5, 3)), (5,)),
]


@pytest.mark.parametrize(("layer", "shape"), LINEAR)
def test_a_linear_map_is_the_layer_without_its_bias(layer, shape):
    rule = lipschitz_rule("layer", layer, shape)
    assert isinstance(rule, LinearMap)
    x = torch.randn(1, *shape)
    got = rule.geometry.apply(rule.weight, x[0])
    torch.testing.assert_close(got, (layer(x) - layer(torch.zeros_like(x)))[0], rtol=1e-4, atol=1e-5)


CONSTANT = [
    (MinMax(), (4,)),
    (nn.ReLU(), (4,)),
    (nn.Tanh(), (4,)),
    (nn.Identity(), (4,)),
    (nn.ZeroPad2d(1), (2, 3, 3)),
    (nn.Flatten(), (2, 3, 3)),
    (nn.Unflatten(1, (2, 2)), (4,)),
    (nn.Softmax(dim=1), (4,)),
]


@pytest.mark.parametrize(("layer", "shape"), CONSTANT)
def test_a_constant_is_never_exceeded_and_nearly_reached(layer, shape):
    rule = lipschitz_rule("layer", layer, shape)
    assert isinstance(rule, LipschitzConstant)
    # Around 0, where tanh and (two classes ahead) softmax are steepest.
    x = torch.randn(20_000, *shape, dtype=torch.float64) * 0.05
    x += torch.randn_like(x) * (torch.arange(len(x)) % 2).reshape(-1, *[1] * len(shape))
    step = torch.randn_like(x) * 1e-3
    if isinstance(layer, nn.Softmax):
        x[::2] += torch.tensor([9.0, 9.0, -9.0, -9.0])
        step[::2] = torch.tensor([1e-3, -1e-3, 0.0, 0.0])
    ratio = (layer(x + step) - layer(x)).flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)
    assert ratio.max() <= rule.value * (1 + 1e-9)
    assert ratio.max() >= rule.value * 0.99


def test_an_unknown_layer_is_named_with_the_remedy():
    with pytest.raises(UnknownLayerError, match=r"features.3 is a GELU.*register_lipschitz_rule\(GELU\)"):
        lipschitz_rule("features.3", nn.GELU(), (4,))


def test_a_subclass_is_unknown_for_it_may_compute_anything():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(UnknownLayerError, match="Doubled"):
        lipschitz_rule("0", Doubled(3, 3), (3,))


@pytest.mark.parametrize(
    ("layer", "shape", "match"),
    [
        (nn.Flatten(0), (3,), "mixes the images"),
        (nn.Flatten(-3), (3, 3), "mixes the images"),
        (nn.Unflatten(0, (1, 1)), (3,), "mixes the images"),
        (nn.Softmax(dim=0), (3,), "dim=1"),
        (nn.ZeroPad2d(1), (3,), "channels, height, width"),
        (nn.Conv2d(1, 1, 3), (4, 4), "channels, height, width"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 4, 4), "circular"),
    ],
)
def test_settings_that_a_rule_does_not_cover(layer, shape, match):
    with pytest.raises(ArchitectureError, match=match):
        lipschitz_rule("0", layer, shape)


def test_registering_a_rule(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    class Halve(nn.Module):
        def forward(self, x):
            return x / 2

    @register_lipschitz_rule(Halve)
    def halve(module, input_shape):
        return LipschitzConstant(0.5)

    assert lipschitz_rule("0", Halve(), (3,)) == LipschitzConstant(0.5)
