"""Each rule against the layer itself: by its matrix where it is linear, by sampling where it is not."""

import copy
import math

import layer_samples
import pytest
import torch
from torch import nn

from gloro_fast.bounds import METHODS, bound_network
from gloro_fast.bounds.diagonal import diagonal_bound
from gloro_fast.errors import ArchitectureError, ConfigError, UnknownLayerError
from gloro_fast.nn import Diagonal, LinearMap, LipschitzConstant, Normalize, register_lipschitz_rule
from gloro_fast.rules import registry
from gloro_fast.rules.registry import lipschitz_rule

# What the singular value decomposition of a matrix of this size may be off by, relatively, in float64.
SVD = 1e-13
label = layer_samples.label


def matrix(layer, shape):
    """The layer without its bias as a float64 matrix (inputs, outputs)."""
    layer = copy.deepcopy(layer).double().eval()
    size = math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros_like(basis))).flatten(1)


def constant(rule):
    return diagonal_bound("layer", rule).value if isinstance(rule, Diagonal) else rule.value


@pytest.mark.parametrize(("layer", "shape"), layer_samples.MAPS, ids=label)
def test_a_linear_map_is_the_layer_without_its_bias(layer, shape):
    layer = copy.deepcopy(layer).double()
    rule = lipschitz_rule("layer", layer, shape)
    assert isinstance(rule, LinearMap)
    weight, geometry = rule.weight.detach(), rule.geometry
    size = math.prod(geometry.input_shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *geometry.input_shape)
    rows = torch.stack([geometry.apply(weight, e).flatten() for e in basis])
    expected = matrix(layer, shape)
    if isinstance(layer, nn.Linear):
        expected = expected[: layer.in_features, : layer.out_features]
    if rule.transposed:
        rows, outputs = rows.T, layer(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
        # Rows that no tap reaches are left out.
        assert all(kept <= made for kept, made in zip(geometry.input_shape, outputs, strict=True))
        kept = expected.reshape(len(expected), *outputs)
        for axis, count in enumerate(geometry.input_shape, start=1):
            assert not kept.narrow(axis, count, kept.shape[axis] - count).any()
            kept = kept.narrow(axis, 0, count)
        expected = kept.flatten(1)
    torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-14)
    exact = torch.linalg.matrix_norm(matrix(layer, shape), 2).item()
    for find in METHODS.values():
        found = find("layer", rule)
        assert found.kind == "estimate" or found.value >= exact * (1 - SVD)


@pytest.mark.parametrize(("layer", "shape"), layer_samples.BY_FREQUENCY, ids=label)
def test_a_layer_by_frequencies_has_the_norm_of_its_map(layer, shape):
    layer = copy.deepcopy(layer).double()
    rule = lipschitz_rule("layer", layer, shape)
    exact = torch.linalg.matrix_norm(matrix(layer, shape), 2).item()
    for find in METHODS.values():
        found = find("layer", rule)
        assert found.kind == "estimate" or found.value >= exact * (1 - SVD)
    assert METHODS["tight"]("layer", rule).value <= exact * (1 + 2e-6)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("layer", "shape"), layer_samples.COPYING, ids=label)
def test_a_convolution_with_copied_pixels_is_bounded_with_its_padding(layer, shape, positive):
    layer = copy.deepcopy(layer).double()
    if positive:  # Nothing cancels, so that repeated pixels count.
        layer.weight.data.abs_()
    rule = lipschitz_rule("layer", layer, shape)
    exact = torch.linalg.matrix_norm(matrix(layer, shape), 2).item()
    assert rule.factor >= 1.0
    for method in METHODS:
        found = bound_network([("layer", rule)], method)
        assert found.kind == "estimate" or found.lipschitz >= exact * (1 - SVD)
    # docs/layers.md: rarely over a tenth more than the norm of the padding, and by none of these weights.
    if len(shape) < 4:
        assert bound_network([("layer", rule)], "cholesky").lipschitz <= 1.1 * rule.factor * exact


CONSTANT = [*layer_samples.SHAPES, *layer_samples.SCALES, *layer_samples.AVERAGES]


@pytest.mark.parametrize(("layer", "shape"), CONSTANT, ids=label)
def test_a_constant_of_a_linear_layer_is_its_largest_singular_value(layer, shape):
    found = constant(lipschitz_rule("layer", layer, shape))
    exact = torch.linalg.matrix_norm(matrix(layer, shape), 2).item()
    assert exact * (1 - SVD) <= found <= exact * (1 + 1e-12)


def ratios(layer, x, step):
    layer = copy.deepcopy(layer).double().eval()
    with torch.no_grad():
        return (layer(x + step) - layer(x)).flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1)


@pytest.mark.parametrize(("layer", "shape"), layer_samples.NONLINEAR, ids=label)
def test_a_constant_is_never_exceeded(layer, shape):
    found = lipschitz_rule("layer", layer, shape)
    for size in (1e-4, 1e-2, 1.0, 100.0):
        x = torch.randn(2000, *shape, dtype=torch.float64) * 10 ** torch.empty(2000, *[1] * len(shape)).uniform_(-3, 2)
        assert ratios(layer, x, torch.randn_like(x) * size).max() <= found.value * (1 + 1e-9)


@pytest.mark.parametrize(("layer", "shape"), layer_samples.SLOPES, ids=label)
def test_the_slope_of_an_activation_is_reached(layer, shape):
    # One coordinate after the other along a fine grid, for a slope of its own each.
    grid = torch.linspace(-20, 20, 8001, dtype=torch.float64)
    # Where a slope is steepest just before it changes.
    grid = torch.cat([grid, torch.tensor([-1e-5, 3 - 1e-5], dtype=torch.float64)])
    best = 0.0
    for place in range(math.prod(shape)):
        x = torch.zeros(len(grid), math.prod(shape), dtype=torch.float64)
        step = torch.zeros_like(x)
        x[:, place], step[:, place] = grid, 1e-5
        best = max(best, ratios(layer, x.reshape(-1, *shape), step.reshape(-1, *shape)).max().item())
    found = lipschitz_rule("layer", layer, shape)
    assert found.kind == "exact"
    assert found.value * (1 - 1e-4) <= best <= found.value * (1 + 1e-9)


@pytest.mark.parametrize(("layer", "shape"), layer_samples.MAXIMA, ids=label)
def test_a_peak_moves_every_window_it_is_in(layer, shape):
    size = math.prod(shape)
    x = torch.rand(size, *shape, dtype=torch.float64)
    step = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    largest = ratios(layer, x + 2 * step, step).max().item()
    assert lipschitz_rule("layer", layer, shape).value == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize(("layer", "shape"), layer_samples.SORTS, ids=label)
def test_sorting_and_reflecting_keep_lengths(layer, shape):
    x = torch.randn(50, *shape, dtype=torch.float64)
    assert ratios(layer, x, torch.randn_like(x) * 1e-6).max() == pytest.approx(1.0, abs=1e-7)


def test_log_softmax_reaches_its_bound_where_one_class_is_nearly_sure():
    x = torch.tensor([[30.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    step = torch.tensor([[1e-4, 0.0, 0.0, 0.0]], dtype=torch.float64)
    step[0, 0] *= -1
    step[0, 1:] += 1e-4 / 3
    found = lipschitz_rule("layer", nn.LogSoftmax(dim=1), (4,))
    assert found.value == 2.0
    # It is attained: the quotient of differences is off by its rounding.
    assert 1.99 < ratios(nn.LogSoftmax(dim=1), x, step).item() <= found.value * (1 + 1e-9)


def test_softmax_reaches_its_bound_between_two_classes():
    x = torch.tensor([[9.0, 9.0, -9.0, -9.0]], dtype=torch.float64)
    step = torch.tensor([[1e-4, -1e-4, 0.0, 0.0]], dtype=torch.float64)
    found = lipschitz_rule("layer", nn.Softmax(dim=1), (4,))
    assert found.kind == "upper bound"
    assert 0.499 < ratios(nn.Softmax(dim=1), x, step).item() <= found.value


def test_every_rule_has_a_sample():
    ours = {kind for kind in registry._RULES if kind.__module__.startswith(("torch.nn", "gloro_fast"))}
    assert ours == {registry.known_type(layer) for layer, _ in layer_samples.SAMPLES}


def test_dropout_is_an_estimate_while_training():
    assert lipschitz_rule("0", nn.Dropout().train(), (3,)).kind == "estimate"


def test_training_differentiates_a_learned_slope():
    layer = layer_samples.learned(nn.PReLU(2), 0.25, -1.75)
    rule = lipschitz_rule("0", layer, (2,))
    rule.factor.backward()
    assert layer.weight.grad.tolist() == [0.0, -1.0]
    assert rule.value == 1.75
    with torch.no_grad():
        assert lipschitz_rule("0", layer, (2,)).factor == 1.75
    assert "1.75" in repr(rule)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, torch.tensor(math.nan)])
def test_a_constant_must_be_a_finite_number(value):
    with pytest.raises(ConfigError, match="finite number >= 0"):
        LipschitzConstant(value)


def test_a_learned_slope_that_became_nan_is_refused():
    layer = layer_samples.learned(nn.PReLU(), math.nan)
    with torch.no_grad(), pytest.raises(ConfigError, match=r"body\.1: a Lipschitz constant is nan"):
        lipschitz_rule("body.1", layer, (2,))


def test_an_unknown_layer_is_named_with_the_remedy():
    class Mine(nn.Module):
        pass

    with pytest.raises(UnknownLayerError) as caught:
        lipschitz_rule("features.3", Mine(), (4,))
    assert str(caught.value) == (
        "features.3 is a Mine, whose Lipschitz constant is unknown; register a rule with "
        "@gloro_fast.nn.register_lipschitz_rule(Mine)"
    )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.LayerNorm(4),
            "a LayerNorm, whose slope grows without limit as its input becomes constant (only its eps limits it); "
            "replace it by BatchNorm, or by nothing",
        ),
        (
            nn.MultiheadAttention(4, 2),
            "a MultiheadAttention, which multiplies its inputs by each other and has no Lipschitz constant; replace it "
            "by convolutions or dense layers",
        ),
        (
            nn.LSTM(4, 2),
            "a LSTM, which multiplies its inputs by each other and has no Lipschitz constant; replace it by "
            "convolutions or dense layers",
        ),
        (
            nn.GLU(),
            "a GLU, which multiplies its inputs by each other and has no Lipschitz constant; replace it by MinMax",
        ),
        (
            nn.Hardshrink(),
            "a Hardshrink, which jumps and so has no Lipschitz constant; replace it by ReLU or MinMax",
        ),
        (nn.RReLU(), "a RReLU, which is random in training; replace it by LeakyReLU"),
    ],
    ids=label,
)
def test_what_has_no_lipschitz_constant_says_why(layer, message):
    with pytest.raises(UnknownLayerError) as caught:
        lipschitz_rule("features.3", layer, (4,))
    assert str(caught.value) == f"features.3 is {message}"


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
        (nn.ReflectionPad1d(1), (3,), "channels, length"),
        (nn.PixelShuffle(2), (4, 4), "channels, height, width"),
        (nn.Conv2d(1, 1, 3), (4, 4), "channels, height, width"),
        (nn.Conv1d(1, 1, 3), (4,), "channels, length"),
        (nn.ConvTranspose2d(1, 1, 3), (4, 4), "channels, height, width"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 4, 4), "mode is 'bilinear'.*'nearest'"),
        (nn.Upsample(scale_factor=2), (4,), "channels before"),
        (nn.MaxPool2d(2, return_indices=True), (1, 4, 4), "return_indices=False"),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), (1, 4, 4), "return_indices=False"),
        (nn.AvgPool2d(2), (4,), "it pools 2 dimensions"),
        (nn.Softplus(beta=-1.0), (3,), "beta is -1; it must be greater than 0"),
        (
            nn.Softplus(threshold=2),
            (3,),
            "threshold is 2, where Softplus jumps in float32 and so has no Lipschitz constant; set it to 20 or more",
        ),
        (nn.CELU(-1.0), (3,), "alpha is -1; it must be greater than 0"),
        (Normalize([0.5, 0.5], [1.0, 1.0]), (3, 4, 4), "it needs 2 channels"),
    ],
    ids=label,
)
def test_settings_that_a_rule_does_not_cover(layer, shape, match):
    with pytest.raises(ArchitectureError, match=match):
        lipschitz_rule("0", layer, shape)


def test_registering_a_rule(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    class Halve(nn.Module):
        def forward(self, x):
            return x / 2

    @register_lipschitz_rule(Halve)
    def halve(module, input_shape):
        return LipschitzConstant(0.5)

    assert lipschitz_rule("0", Halve(), (3,)) == LipschitzConstant(0.5)
