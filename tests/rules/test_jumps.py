"""Activations as torch computes them in every type: beyond rounding no pair of inputs exceeds the constant.

Implementations switch between formulas, and a switch may be a jump that the real function does not have.
"""

import copy

import layer_samples
import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.activations import check_dtype, softplus_threshold
from gloro_fast.rules.registry import lipschitz_rule

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Units in the last place of the larger of x and f(x) by which two outputs may be off; oneDNN's GELU is off by 3.5.
ROUNDING = 8
# Where formulas switch, and exp, tanh or erf reach the end of what the types can tell apart.
SWITCHES = [0.0, 0.5, 1.0, 1.8, 2.0, 3.0, 5.0, 5.9, 6.0, 7.0, 8.3, 9.0, 16.6, 18.7, 20.0, 37.0, 88.7, 104.0, 709.8]

LAYERS = [
    *(layer for layer, shape in layer_samples.SLOPES if shape == layer_samples.VECTOR),
    nn.Softshrink(0.0),
    nn.Softshrink(7.0),
    nn.ELU(1e-8),
    nn.ELU(1e4),
    nn.CELU(1.0),
    nn.CELU(1e-6),
    nn.CELU(1e-30),
    nn.CELU(1e6),
    nn.Softplus(threshold=37.0),
    nn.Softplus(threshold=88.0),
    nn.Softplus(beta=1e6),
    nn.Softplus(beta=1e6, threshold=37.0),
]
# Beyond what float16 holds: f(0) is log(2) / beta.
FLAT = [nn.Softplus(beta=1e-6), nn.Softplus(beta=1e-6, threshold=37.0)]
FUNCTIONS = [torch.abs, torch.sin, torch.cos]


def accepts(layer, dtype):
    try:
        lipschitz_rule("layer", layer, (6,))
        check_dtype(layer, dtype)
    except ArchitectureError:
        return False
    return True


ACCEPTED = [
    *((layer, dtype) for layer in LAYERS for dtype in DTYPES if accepts(layer, dtype)),
    *((layer, dtype) for layer in FLAT for dtype in DTYPES[:3] if accepts(layer, dtype)),
]


def neighbours(x, count=32):
    """The numbers next to each of ``x`` in its type."""
    integer = INTEGERS[x.dtype.itemsize]
    steps = torch.arange(-count, count + 1, dtype=integer)
    return (x[:, None].view(integer) + steps).view(x.dtype).flatten()


def inputs(layer, dtype):
    """All numbers of a half type; in wider types those of bfloat16, a grid, and the neighbours of every switch."""
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    parts = [halves.view(torch.float16 if dtype == torch.float16 else torch.bfloat16).to(dtype)]
    if dtype.itemsize > 2:
        places = [*SWITCHES, *(switch * (getattr(layer, "alpha", None) or 1.0) for switch in SWITCHES)]
        if isinstance(layer, nn.Softplus):
            places += [layer.threshold / layer.beta, 1 / layer.beta]
        marks = torch.tensor(places, dtype=torch.float64)
        parts += [torch.linspace(-40, 40, 20_001, dtype=torch.float64).to(dtype)]
        parts += [neighbours(torch.cat([marks, -marks]).to(dtype))]
    x = torch.cat(parts)
    return x[x.isfinite()].unique()


def excess(function, constant, dtype, x, device="cpu"):
    """By how many units in the last place two outputs are further apart than ``constant`` allows, at most."""
    with torch.no_grad():
        y = function(x.to(device)).cpu()
    assert y.dtype == dtype
    x, y = x.double(), y.double()
    reach = torch.maximum(y.abs(), x.abs() * max(1.0, constant))
    finite = y.isfinite()
    assert finite[x.abs() * max(1.0, constant) < torch.finfo(dtype).max / 8].all()
    x, y, reach = x[finite], y[finite], reach[finite]
    unit = reach * torch.finfo(dtype).eps + torch.finfo(dtype).tiny
    worst, lag = 0.0, 1
    while lag < len(x):
        beyond = (y[lag:] - y[:-lag]).abs() - constant * (x[lag:] - x[:-lag])
        worst = max(worst, (beyond / torch.maximum(unit[lag:], unit[:-lag])).max().item())
        lag *= 4
    return worst


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("layer", "dtype"), ACCEPTED, ids=layer_samples.label)
def test_an_activation_that_is_accepted_does_not_jump(layer, dtype, device):
    constant = lipschitz_rule("layer", layer, (6,)).value
    function = copy.deepcopy(layer).to(device, dtype)
    assert excess(function, constant, dtype, inputs(layer, dtype), device) <= ROUNDING


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_does_not_jump(function, dtype, device):
    assert excess(function, 1.0, dtype, inputs(None, dtype), device) <= ROUNDING


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        *((nn.Softplus(beta, threshold), torch.float64) for beta in (1e-6, 1.0, 1e6) for threshold in (20.0, 30.0)),
        (nn.Softplus(threshold=10.0), torch.float32),
        (nn.Hardshrink(1e-3), torch.float32),
    ],
    ids=layer_samples.label,
)
def test_the_search_finds_a_jump(layer, dtype):
    assert excess(layer, 1.0, dtype, inputs(layer, dtype)) > ROUNDING


def test_what_is_accepted_in_each_type():
    refused = {(repr(layer), dtype) for layer in [*LAYERS, *FLAT] for dtype in DTYPES if not accepts(layer, dtype)}
    assert refused == {
        (repr(layer), torch.float64)
        for layer in [*LAYERS, *FLAT]
        if isinstance(layer, nn.Softplus) and layer.threshold < 37.0
    }
    assert [softplus_threshold(dtype) for dtype in DTYPES] == [37.0, 20.0, 20.0, 20.0]


class Scaled(nn.Module):
    """A net of float32 parameters whose activation computes in the type that ``scale`` makes."""

    def __init__(self, scale):
        super().__init__()
        self.dense, self.act, self.scale = nn.Linear(4, 3), nn.Softplus(), scale

    def forward(self, x):
        return self.act(self.dense(x) * self.scale(self))


JUMPS = "threshold is 20, where Softplus jumps in float64 and so has no Lipschitz constant; set it to 37 or more"


def sequence(threshold):
    return nn.Sequential(nn.Linear(4, 3), nn.Softplus(threshold=threshold), nn.Linear(3, 2))


def test_a_float64_net_needs_a_larger_threshold():
    with pytest.raises(ArchitectureError) as caught:
        _ = GloRoNet(sequence(20).double(), 0.1, (4,)).eval().lipschitz
    assert str(caught.value) == f"1: {JUMPS}"
    assert GloRoNet(sequence(37).double(), 0.1, (4,)).eval().lipschitz > 0
    for dtype in DTYPES[1:]:
        assert GloRoNet(sequence(20).to(dtype), 0.1, (4,)).eval().lipschitz > 0
    net = GloRoNet(sequence(20), 0.1, (4,)).eval()
    assert net.lipschitz > 0
    with pytest.raises(ArchitectureError, match="jumps in float64"):
        _ = net.double().lipschitz


def test_a_net_of_two_types_counts_as_the_wider_one():
    buffered = Scaled(lambda self: self.factor)
    buffered.register_buffer("factor", torch.ones(3, dtype=torch.float64))
    for module in (buffered, Scaled(lambda self: self.dense.bias.double())):
        assert module(torch.rand(1, 4)).dtype == torch.float64
        with pytest.raises(ArchitectureError, match=r"act: .*jumps in float64"):
            _ = GloRoNet(module, 0.1, (4,)).eval().lipschitz
    assert GloRoNet(Scaled(lambda self: self.dense.bias), 0.1, (4,)).eval().lipschitz > 0


def test_a_clamp_would_make_a_number_of_an_overflow():
    layer = nn.Softplus(threshold=1000.0)
    below, above = nn.Hardtanh(-1e4, 1e4)(layer(torch.tensor([88.7, 88.8])))
    assert above - below > 9000
    with pytest.raises(ArchitectureError) as caught:
        lipschitz_rule("act", layer, (4,))
    assert str(caught.value) == "act: threshold is 1000, below which Softplus overflows; set it to 88 or less"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.LeakyReLU(float("nan")), "negative_slope is nan"),
        (nn.ELU(float("nan")), "alpha is nan"),
        (nn.ELU(float("-inf")), "alpha is -inf"),
        (nn.CELU(float("inf")), "alpha is inf"),
        (nn.Softplus(float("inf")), "beta is inf"),
    ],
)
def test_a_setting_that_is_not_finite_is_refused(layer, name):
    with pytest.raises(ArchitectureError, match=f"{name}; it must be finite"):
        lipschitz_rule("act", layer, (4,))
