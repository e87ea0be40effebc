"""Executed certificates of graphs, against rationals: BatchNorm, Normalize, sums and branches."""

import dataclasses
import itertools
import math
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, ExecutionError
from gloro_fast.nn import MinMax, Normalize, PairwiseMinMax
from gloro_fast.nn.normalize import Scale
from gloro_fast.ops.strict import SUMS
from gloro_fast.rounding_error import ExecutedNet, sums_of_products
from gloro_fast.rounding_error.arithmetic import Arithmetic, Growing
from gloro_fast.rounding_error.graph import Place
from gloro_fast.rounding_error.scaling import Scaling
from gloro_fast.rounding_error.state import Off
from gloro_fast.rounding_error.steps import Addition
from gloro_fast.rules.registry import LinearMap, lipschitz_rule

pytestmark = pytest.mark.filterwarnings("ignore:images. pixels range:UserWarning")
rational = np.vectorize(Fraction, otypes=[object])


def exact(tensor):
    return rational(tensor.detach().double().numpy())


def root(x):
    """Return the root of a rational, to 300 bits after the point: what is left off is far below any bound here."""
    return Fraction(math.isqrt((x.numerator << 600) // x.denominator), 1 << 300)


def along_channels(tensor, h):
    return exact(tensor).reshape(-1, *[1] * (h.ndim - 1))


def run_exactly(layer, h):
    """Apply a layer to one image of rationals, from its definition."""
    if isinstance(layer, Normalize):
        return (h - along_channels(layer.mean, h)) / along_channels(layer.std, h)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        divisor = np.vectorize(root, otypes=[object])(along_channels(layer.running_var, h) + Fraction(layer.eps))
        h = (h - along_channels(layer.running_mean, h)) / divisor
        return h * along_channels(layer.weight, h) + along_channels(layer.bias, h) if layer.affine else h
    if isinstance(layer, MinMax | PairwiseMinMax):
        low, high = np.minimum(h[0::2], h[1::2]), np.maximum(h[0::2], h[1::2])
        return np.stack([low, high], axis=1).reshape(h.shape)
    if isinstance(layer, nn.ReLU):
        return np.maximum(h, Fraction(0))
    if isinstance(layer, Scale):
        return h * Fraction(layer.factor)
    if isinstance(layer, nn.Flatten):
        return h.reshape(-1)
    rule = lipschitz_rule("", layer, h.shape)
    assert isinstance(rule, LinearMap)
    basis = torch.eye(h.size, dtype=torch.float64).reshape(-1, *h.shape)
    columns = [rule.geometry.apply(rule.weight.detach().double(), e) for e in basis]
    result = exact(torch.stack([c.flatten() for c in columns], dim=1)) @ h.reshape(-1)
    result = result.reshape(columns[0].shape)
    return result if layer.bias is None else result + along_channels(layer.bias, result)


def number(value, like):
    """Return a number that does not make rationals floats."""
    return Fraction(value) if isinstance(like, np.ndarray) else value


def as_it_is(layer, h):
    return layer(h)


def beside(*parts):
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts, dim=1)


class Model(nn.Module):
    """A model of which ``compute`` says what it does, both to tensors and to arrays of rationals."""

    def forward(self, x):
        return self.compute(x, as_it_is)


def extreme(norm):
    """Statistics from tiny to huge, and means far above the deviations, so that sums cancel."""
    with torch.no_grad():
        count = norm.num_features
        deviation = 10.0 ** torch.empty(count).uniform_(-5, 5)
        norm.running_var.copy_(deviation.square())
        norm.running_mean.copy_(deviation * torch.randn(count) * 10.0 ** torch.empty(count).uniform_(0, 4))
        if norm.affine:
            norm.weight.copy_(torch.randn(count) * 10.0 ** torch.empty(count).uniform_(-3, 1))
            norm.bias.copy_(torch.randn(count) * 10.0 ** torch.empty(count).uniform_(-3, 3))
    return norm


class Residual(Model):
    def __init__(self, affine=True, activation=MinMax):
        super().__init__()
        self.normalize = Normalize([0.4, -300.0], [1e-3, 20.0])
        self.conv1, self.bn1 = nn.Conv2d(2, 2, 3, padding=1, bias=False), extreme(nn.BatchNorm2d(2, affine=affine))
        self.activation = activation()
        self.conv2, self.bn2 = nn.Conv2d(2, 2, 3, padding=1), extreme(nn.BatchNorm2d(2, eps=1e-3, affine=affine))
        self.flatten, self.head = nn.Flatten(), nn.Linear(18, 3)

    def compute(self, x, run):
        x = run(self.normalize, x)
        y = run(self.activation, run(self.bn1, run(self.conv1, x)))
        x = x + run(self.bn2, run(self.conv2, y))
        return run(self.head, run(self.flatten, x))


class Cancelling(Model):
    """x - (1 - 2^-9) conv(x), with a convolution that is nearly the identity, and a third branch that is large."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Conv2d(2, 2, 1)
        self.conv, self.back, self.activation = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1), MinMax()
        with torch.no_grad():
            self.lift.bias += 2.0**12
            self.conv.weight.copy_(torch.eye(2)[..., None, None] + 1e-3 * torch.randn(2, 2, 1, 1))
        self.flatten, self.head = nn.Flatten(), nn.Linear(36, 3)

    def compute(self, x, run):
        x = run(self.lift, x)
        y = x - number(1 - 2.0**-9, x) * run(self.conv, x)
        z = run(self.activation, x) - number(4096.3, x)
        y = y + z * number(0.1, x) + run(self.back, y) / number(3.0, x)
        return run(self.head, run(self.flatten, beside(y, -z)))


class Tensors(Model):
    """Products and sums with tensors of parameters."""

    def __init__(self):
        super().__init__()
        self.gain, self.divisor = nn.Parameter(torch.randn(2, 3, 3) * 100), nn.Parameter(torch.rand(3) + 1e-3)
        self.shift = nn.Parameter(torch.randn(2, 1, 1) * 1e4)
        self.conv, self.flatten, self.head = nn.Conv2d(2, 2, 2, padding=1), nn.Flatten(), nn.Linear(32, 3)
        self.bn, self.scale = extreme(nn.BatchNorm1d(32)), Scale(0.3)

    def compute(self, x, run):
        tensors = [self.gain, self.divisor, self.shift]
        gain, divisor, shift = map(exact, tensors) if isinstance(x, np.ndarray) else tensors
        x = (x * gain + shift) / divisor
        x = run(self.conv, shift - number(0.3, x) * x)
        return run(self.head, run(self.bn, run(self.scale, run(self.flatten, x))))


class Linear(Model):
    """Linear branches that the bound takes as one map, with a head that is none."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 2, 3, padding=1), extreme(nn.BatchNorm2d(2))
        self.conv2 = nn.Conv2d(2, 2, 1)
        self.bn2, self.flatten = extreme(nn.BatchNorm2d(2)), nn.Flatten()

    def compute(self, x, run):
        x = x + number(0.5, x) * run(self.bn1, run(self.conv1, x))
        x = run(self.conv2, x) - x
        return run(self.flatten, run(self.bn2, x))


class Swamped(Model):
    """A branch that rounds to whole numbers, beside a small one."""

    def __init__(self):
        super().__init__()
        self.flatten, self.unused = nn.Flatten(), nn.Parameter(torch.zeros(1))

    def compute(self, x, run):
        large = number(2.0**22 + 0.5, x)
        return run(self.flatten, x * number(0.1, x) + ((x + large) - large))


class Plain(Model):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.flatten = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Flatten()

    def compute(self, x, run):
        return run(self.flatten, run(self.bn, run(self.conv, x)))


class Shifted(Model):
    def __init__(self):
        super().__init__()
        self.bn, self.flatten = nn.BatchNorm2d(2, affine=False), nn.Flatten()
        self.unused = nn.Parameter(torch.zeros(1))
        self.bn.running_mean.copy_(torch.randn(2) * 1e5)
        self.bn.running_var.copy_(torch.rand(2) + 0.1)

    def compute(self, x, run):
        return run(self.flatten, run(self.bn, x))


KINDS = {
    "residual": Residual,
    "residual without gains": lambda: Residual(affine=False, activation=nn.ReLU),
    "cancelling": Cancelling,
    "tensors": Tensors,
    "linear": Linear,
    "swamped": Swamped,
    "shifted": Shifted,
}


def net_of(kind, seed, dtype=torch.float32):
    torch.manual_seed(seed)
    return GloRoNet(KINDS[kind]().to(dtype), 0.1, (2, 3, 3)).eval()


def deviations(net, radius, tries=3):
    """Yield (happened, allowed) for points of the ball: how far the program's logits are from the real ones."""
    dtype = next(net.parameters()).dtype
    x = (torch.randn(1, 2, 3, 3) * 3).to(dtype)
    signed = net._current()
    executed = ExecutedNet.of(net.module, net._plan, signed.network, signed.differences)
    state = executed.graph(x)
    logits = executed.head(state) if executed.head else None
    value = state.value.flatten(1) if logits is None else logits.value
    error = state.error.expand(value.shape[1]) if logits is None else state.error * logits.rows + logits.evaluation[0]
    assert (executed.radii(x, net._plan.run(x).detach(), value.argmax(1, keepdim=True)) >= 0).all()
    for attempt in range(tries):
        direction = torch.randn(1, 2, 3, 3, dtype=torch.float64)
        at = (x + direction * (radius * (attempt / tries) / direction.norm())).to(dtype)
        real = net.module.compute(exact(at)[0], run_exactly)
        with torch.no_grad():
            program = exact(net._plan.run(at))[0]
        distance = Fraction(float((at.double() - x.double()).norm())) * Fraction(1 + 2**-50)
        if attempt == 0:
            for got, want, bound in zip(exact(value)[0], real, error, strict=True):
                assert abs(got - want) <= Fraction(float(bound)) * Fraction(1 + 2**-40)
        before = Fraction(float(state.deviation.constant[0])) + distance * Fraction(float(state.deviation.slope))
        if logits is None:
            yield root(((program - real) ** 2).sum()), before
            continue
        for i, (got, want) in enumerate(zip(program, real, strict=True)):
            allowed = Fraction(float(logits.rows[i])) * before + Fraction(float(logits.rounding.constant[0, i]))
            yield abs(got - want), allowed + Fraction(float(logits.rounding.slope[i])) * distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_what_rounding_does_is_within_the_bound(kind, dtype):
    happened = 0
    for seed in range(5):
        net = net_of(kind, seed, dtype)
        for radius in (0.0, 3.0):
            for found, allowed in deviations(net, radius):
                assert found <= allowed
                happened += found > allowed / 2000
    assert happened > 4, "the bound is so loose that this test would not see a wrong one"


@pytest.mark.parametrize("flush", [False, True])
def test_subnormal_numbers_are_within_the_bound(flush):
    # What the convolution gives is subnormal, and BatchNorm makes it large again; or the factor of BatchNorm is.
    cases = [(1e-42, 1e-39, 1e-28, 1e20), (1e20, 0.0, 1e18, 1e-30)]
    try:
        for seed, (weight, mean, variance, gain) in itertools.product(range(4), cases):
            torch.manual_seed(seed)
            model = Plain()
            nn.init.normal_(model.conv.weight, std=weight)
            nn.init.zeros_(model.conv.bias)
            model.bn.running_mean.fill_(mean)
            model.bn.running_var.fill_(variance)
            model.bn.eps = 1e-28
            nn.init.normal_(model.bn.weight, std=gain)
            nn.init.zeros_(model.bn.bias)
            if not torch.set_flush_denormal(flush) and flush:
                pytest.skip("this processor takes no subnormal number for 0")
            for found, allowed in deviations(GloRoNet(model, 0.1, (2, 3, 3)).eval(), 1.0):
                assert found <= allowed
                # Weights are 0 to this test too where the processor takes them for 0.
                assert found > 0 or flush
            torch.set_flush_denormal(False)
    finally:
        torch.set_flush_denormal(False)


def broken(kind, seeds=4):
    try:
        return any(found > allowed for seed in range(seeds) for found, allowed in deviations(net_of(kind, seed), 0.1))
    except ExecutionError:
        return True


def test_a_bound_with_a_part_of_what_sums_round_is_caught(monkeypatch):
    # Seven roundings of any two terms are allowed, of which a sum with a number makes one, on average half as large.
    assert not broken("swamped")
    size = Addition._size
    monkeypatch.setattr(Addition, "_size", lambda self, sizes: size(self, sizes) * 0.02)
    assert broken("swamped")


def test_a_bound_that_forgets_a_branch_is_caught(monkeypatch):
    whole = Place.off
    none = lambda offs: [offs[0], *(Off.none(off.error) for off in offs[1:])]  # noqa: E731
    monkeypatch.setattr(Place, "off", lambda self, inputs: whole(self, none(inputs)))
    assert broken("swamped")


def test_a_bound_that_forgets_the_mean_is_caught(monkeypatch):
    around = Scaling._around
    monkeypatch.setattr(Scaling, "_around", staticmethod(lambda centre, *rest: around(centre * 0.01, *rest)))
    assert broken("shifted")


def test_a_bound_with_the_roundings_of_float64_is_caught(monkeypatch):
    monkeypatch.setattr(Arithmetic, "of", classmethod(lambda cls, dtype: cls(2.0**-53, 1e-300, 1e300)))
    for kind in KINDS:
        assert broken(kind), kind


def test_maps_that_were_merged_are_off_by_no_more_than_their_parts():
    """The deviation before a merged map counts with its norm, which is far below the product of its parts'."""
    torch.manual_seed(0)
    blocks = []
    for _ in range(6):
        conv, norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        with torch.no_grad():
            gains = torch.tensor([0.1, 0.3, 1.0, 3.0])
            conv.weight /= gains[:, None, None, None]
            norm.weight.copy_(gains)
        blocks += [conv, norm, nn.ReLU()]
    net = GloRoNet(nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 3)), 0.1, (4, 4, 4)).eval()
    x = torch.rand(4, 4, 4, 4)
    certificate = net.certify(x, executed=True)
    assert (certificate.radius > 0.7 * certificate.real_radius).all()
    graph = net._executed[1].graph
    apart = dataclasses.replace(graph, places=tuple(dataclasses.replace(place, source=None) for place in graph.places))
    assert (graph(x).deviation.constant < 0.001 * apart(x).deviation.constant).all()


def test_what_was_off_before_a_merged_map_counts_with_its_whole_norm():
    torch.manual_seed(0)
    # What is off comes from the first sum, and is not small beside what later ones round.
    before = [nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()]
    conv, norm = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
    with torch.no_grad():
        before[0].bias += 2.0**16
        before[2].weight.copy_(torch.eye(4)[..., None, None])
        before[2].bias.fill_(-(2.0**16))
        norm.weight.copy_(torch.tensor([0.1, 1.0, 2.0, 3.0]))
    x, deviations = torch.rand(3, 2, 3, 3), []
    for layers in (before, [*before, conv, norm]):
        net = GloRoNet(nn.Sequential(*layers, nn.Flatten()), 0.1, (2, 3, 3)).eval()
        net.certify(x, executed=True)
        deviations.append(net._executed[1].graph(x).deviation)
    first, last = deviations
    assert any(place.source is not None for place in net._executed[1].graph.places)
    whole = (norm.weight / (1 + norm.eps) ** 0.5)[:, None] * conv.weight[:, :, 0, 0]
    spectral = torch.linalg.matrix_norm(whole.detach().double(), 2)
    assert (last.constant > spectral * first.constant).all()
    assert (last.constant < 1.01 * spectral * first.constant).all()
    assert last.slope > spectral * first.slope


class Functions(nn.Module):
    """The same as layers, called as functions."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(2, 4, 3, padding=1), extreme(nn.BatchNorm2d(4)), nn.Linear(16, 6)
        self.head = nn.Linear(6, 3)
        self.layers = nn.Sequential(self.conv, self.bn, nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), self.linear)
        self.as_functions = True

    def forward(self, x):
        bn = self.bn
        if not self.as_functions:
            return self.head(self.layers(x))
        x = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        x = F.adaptive_max_pool2d(F.relu(x), 2).permute(0, 1, 2, 3).flatten(1)
        return F.linear(x @ self.linear.weight.T + self.linear.bias, self.head.weight, self.head.bias)


def test_functions_are_bounded_as_layers_are():
    torch.manual_seed(0)
    model = Functions()
    x = torch.randn(4, 2, 5, 5)
    radii = []
    for model.as_functions in (True, False):
        net = GloRoNet(model, 0.1, (2, 5, 5)).eval()
        certificate = net.certify(x, executed=True)
        assert (certificate.radius > 0).all()
        radii.append(certificate.radius)
    torch.testing.assert_close(*radii, rtol=1e-3, atol=0)


def one(function, shape=(4, 3, 3)):
    class Called(nn.Module):
        def forward(self, x):
            return function(x).flatten(1)

    return GloRoNet(Called(), 0.1, shape).eval()


SELECTIONS = {
    "cat": lambda x: torch.cat([x, x.flip(2)], 1),
    "chunk": lambda x: torch.maximum(*x.chunk(2, dim=1)),
    "maximum": lambda x: torch.maximum(x, x.roll(1, 2)),
    "pad": lambda x: F.pad(x, (1, 2)),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "transpose and slice": lambda x: x.transpose(1, 2)[:, 1:],
    "to": lambda x: x.to(torch.float32),
    "amax": lambda x: x.amax(2),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
}
ROUNDING = {
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: x.sum(1),
    "number": lambda x: x * 1e-3 + 7.3,
    "quotient": lambda x: x / 3.0,
    "difference": lambda x: torch.sub(x, x.roll(1, 2), alpha=0.3),
    "in place": lambda x: (x * 1.1).add_(x, alpha=-0.3).mul_(5.0),
    "from a number": lambda x: 1.1 - x,
    "many": lambda x: x + x * 0.1 + x.flip(1) * 0.7 - 3 * x,
}


@pytest.mark.parametrize("kind", SELECTIONS | ROUNDING)
def test_every_kind_of_function_stays_within_its_bound(kind):
    net = one((SELECTIONS | ROUNDING)[kind])
    x = torch.randn(8, 4, 3, 3) * 10
    certificate = net.certify(x, executed=True)
    assert (certificate.radius <= certificate.real_radius).all()
    state = net._executed[1].graph(x)
    off = (net.module(x).double() - state.value.flatten(1)).norm(dim=1)
    assert (off <= state.deviation.constant + state.error).all()
    if kind in SELECTIONS:
        assert (off == 0).all()
        assert (state.deviation.constant < 1e-30).all()
    else:
        assert (off > state.deviation.constant / 1000).any()


def test_a_sum_of_two_branches_rounds_once():
    net = one(lambda x: x + x.roll(1, 2))
    x = torch.randn(8, 4, 3, 3)
    net.certify(x, executed=True)
    state = net._executed[1].graph(x)
    off = (net.module(x).double() - state.value.flatten(1)).norm(dim=1)
    allowed = 2 * x.double().flatten(1).norm(dim=1) * 2.0**-24
    assert (state.deviation.constant <= allowed * (1 + 1e-6)).all()
    assert (off > 0.1 * allowed).all()


def test_an_error_in_one_branch_counts_in_the_sum_and_beside_the_other():
    deviation = []
    for function in (
        lambda x: x * 1.1,
        lambda x: torch.cat([x * 1.1, x * 1.1], 1),
        lambda x: (x * 1.1).add(x * 1.1, alpha=3.0),
    ):
        net = one(function)
        x = torch.ones(1, 4, 3, 3)
        net.certify(x, executed=True)
        deviation.append(net._executed[1].graph(x).deviation.constant.item())
    single, stacked, added = deviation
    assert math.sqrt(2) * single <= stacked <= math.sqrt(2) * single * 1.0001
    assert added >= 4 * single


def autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        return x * 1.1


@pytest.mark.parametrize(
    ("function", "name"),
    [(torch.tanh, "Tanh"), (lambda x: F.pad(x, (1, 1), value=0.1), "pad"), (lambda x: x.clamp(-0.1, 0.1), "clamp"),
     (autocast, "autocast"), (lambda x: torch.logsumexp(x, 1), "logsumexp")],
)  # fmt: skip
def test_functions_that_round_in_unknown_ways_are_refused_by_name(function, name):
    with pytest.raises(ArchitectureError, match=f"{name}.*certify without executed"):
        one(function).certify(torch.zeros(1, 4, 3, 3), executed=True)


def test_a_constant_of_a_wider_type_is_not_selected():
    for number in (0.25, 0.1):
        net = one(lambda x: torch.maximum(x, torch.tensor(number, dtype=torch.float64)))  # noqa: B023
        if number == 0.25:
            net.certify(torch.zeros(1, 4, 3, 3), executed=True)
    with pytest.raises(ArchitectureError, match="maximum"):
        net.certify(torch.zeros(1, 4, 3, 3), executed=True)


@pytest.mark.parametrize("variance", [0.0, 1e-40, 1e38])
def test_statistics_beyond_the_type_certify_nothing(variance):
    norm = nn.BatchNorm1d(4, eps=1e-45)
    norm.running_var.fill_(variance)
    net = GloRoNet(nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 2)), 0.0, (4,))
    assert (net.eval().certify(torch.randn(4, 4), executed=True).radius == 0).all()


def test_cancelling_statistics_break_real_certificates_and_no_executed_one():
    # x - mean is right to a few bits only: float32 images between two numbers that are certified apart.
    torch.manual_seed(0)
    lost = 0
    for exponent in (4, 10, 16, 22):
        norm = nn.BatchNorm1d(2, affine=False)
        norm.running_mean.fill_(2.0**exponent)
        lift = nn.Linear(2, 2)
        with torch.no_grad():
            lift.weight.copy_(torch.eye(2))
            lift.bias.fill_(2.0**exponent)
        net = GloRoNet(nn.Sequential(lift, norm, nn.Linear(2, 2)), 0.0, (2,)).eval()
        x = torch.randn(200, 2)
        certificate = net.certify(x, executed=True)
        plain = certificate.real_radius
        for _ in range(40):
            direction = torch.randn(200, 2)
            direction = direction / direction.norm(dim=1, keepdim=True)
            for share in (0.1, 0.9, 0.999):
                at = x + direction * (plain * share).float()[:, None]
                distance = (at.double() - x.double()).norm(dim=1)
                flipped = net.module(at).argmax(1) != certificate.prediction
                assert not (flipped & (distance < certificate.radius)).any()
                lost += int((flipped & (distance < plain)).sum())
    assert lost > 0


def test_convolutions_that_are_functions_take_the_same_arithmetic():
    torch.manual_seed(0)
    net = GloRoNet(Functions(), 0.1, (2, 5, 5)).eval()
    x = torch.randn(3, 2, 5, 5)
    usual = net.certify(x, executed=True)
    assert isinstance(sums_of_products(net._plan, x.device), nullcontext)
    with torch.backends.mkldnn.flags(enabled=False):
        assert sums_of_products(net._plan, x.device) is SUMS
        torch.testing.assert_close(net.certify(x, executed=True).logits, usual.logits, rtol=1e-5, atol=1e-5)


def test_the_certificate_of_batch_norm_follows_its_statistics():
    torch.manual_seed(0)
    net = GloRoNet(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), 0.1, (4,)).eval()
    x = torch.randn(4, 4)
    deviations = []
    for mean in (0.0, 2.0**20):
        net.module[1].running_mean.fill_(mean)
        net.certify(x, executed=True)
        deviations.append(net._executed[1].graph(x).deviation.constant)
    assert (deviations[1] > 1000 * deviations[0]).all()


def test_growing_bounds_side_by_side_hold_for_every_epsilon():
    torch.manual_seed(0)
    parts = [Off(torch.rand(5).double(), Growing(torch.rand(5).double(), torch.rand(()).double())) for _ in range(3)]
    whole = Off.beside(parts)
    for epsilon in (0.0, 0.1, 1.0, 10.0):
        exactly = sum((p.deviation.constant + epsilon * p.deviation.slope).square() for p in parts).sqrt()
        assert (whole.deviation.constant + epsilon * whole.deviation.slope >= exactly * (1 - 1e-15)).all()
