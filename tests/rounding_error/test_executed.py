"""Executed certificates: the bound on rounding contains what happens, against exact rationals, and attacks fail."""

import copy
import math
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, ConfigError, ExecutionError
from gloro_fast.nn import Conv2d, MinMax
from gloro_fast.nn.group_sort import GroupSort
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.ops.strict import SUMS
from gloro_fast.rounding_error import ExecutedNet, sums_of_products
from gloro_fast.rounding_error.arithmetic import Arithmetic
from gloro_fast.rules.registry import LinearMap

pytestmark = pytest.mark.filterwarnings("ignore:images. pixels range:UserWarning")
rational = np.vectorize(Fraction, otypes=[object])


def exact_layers(net):
    """Every layer as a function on rationals: products by the unrolled matrix, or pairs sorted."""
    functions = []
    for layer in (node.transfer for node in net._plan.nodes[1:]):
        rule = layer.rule()
        if isinstance(rule, LinearMap):
            basis = torch.eye(math.prod(layer.input_shape), dtype=torch.float64).reshape(-1, *layer.input_shape)
            columns = [rule.geometry.apply(rule.weight.detach().double(), e) for e in basis]
            matrix = rational(torch.stack([c.flatten() for c in columns], dim=1).numpy())
            bias = layer.module.bias
            copies = matrix.shape[0] // rule.weight.shape[0]
            constant = rational(np.zeros(len(matrix)))
            if bias is not None:
                constant = rational(bias.detach().double().repeat_interleave(copies).numpy())
            functions.append(lambda h, m=matrix, b=constant: m @ h + b)
        elif isinstance(layer.module, MinMax):
            channels = layer.input_shape[0]
            functions.append(lambda h, c=channels: _sorted_pairs(h.reshape(c, -1)))
        elif isinstance(layer.module, nn.ReLU):
            functions.append(lambda h: np.maximum(h, Fraction(0)))
        else:
            functions.append(lambda h: h)
    return functions


def _sorted_pairs(h):
    low, high = np.minimum(h[0::2], h[1::2]), np.maximum(h[0::2], h[1::2])
    return np.stack([low, high], axis=1).reshape(-1)


def nets():
    torch.manual_seed(3)
    yield GloRoNet(nn.Sequential(nn.Linear(6, 8), MinMax(), nn.Linear(8, 8), MinMax(), nn.Linear(8, 3)), 0.1, (6,))
    yield GloRoNet(nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)), 0.1, (6,))
    small = nn.Sequential(Conv2d(1, 4, 3, stride=2, padding="same"), MinMax(), nn.Flatten(), nn.Linear(16, 3))
    yield GloRoNet(small, 0.1, (1, 4, 4))
    yield GloRoNet(nn.Sequential(nn.Conv2d(2, 2, 2, padding=1, groups=2), nn.ReLU(), nn.Flatten()), 0.1, (2, 2, 2))
    rectified = nn.Sequential(
        nn.Linear(6, 8), MinMax(), nn.Linear(8, 3), nn.ReLU(), nn.Unflatten(1, (3, 1)), nn.Flatten()
    )
    yield GloRoNet(rectified, 0.1, (6,))
    cancelling = GloRoNet(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), 0.1, (6,))
    with torch.no_grad():
        cancelling.module[0].bias += 2.0**14
        cancelling.module[2].bias -= cancelling.module[2](torch.full((8,), 2.0**14)) * 0.999
    yield cancelling


def deviations(net, radius, tries=4):
    """Yield (happened, allowed) for points of the ball: how far the program's logits are from the real ones."""
    shape = net.input_shape
    x = torch.randn(1, *shape)
    signed = net.eval()._current()
    executed = ExecutedNet.of(net.module, net._plan, signed.network, signed.differences)
    state = executed.graph(x)
    logits = executed.head(state) if executed.head else None
    functions = exact_layers(net)
    for attempt in range(tries):
        direction = torch.randn(1, *shape)
        at = x + direction * (radius * (attempt / tries) / direction.norm())
        real = rational(at.double().flatten().numpy())
        for function in functions:
            real = function(real)
        with torch.no_grad():
            program = rational(net._plan.run(at).double().flatten().numpy())
        distance = Fraction(float((at.double() - x.double()).norm())) * Fraction(1 + 2**-50)
        for i, (got, want) in enumerate(zip(program, real, strict=True)):
            growing = state.deviation if logits is None else logits.deviation
            row = Fraction(1) if logits is None else Fraction(float(logits.rows[i]))
            allowed = row * (Fraction(float(growing.constant[0])) + distance * Fraction(float(growing.slope)))
            if logits is not None:
                allowed += Fraction(float(logits.rounding.constant[0, i]))
                allowed += Fraction(float(logits.rounding.slope[i])) * distance
            yield abs(got - want), allowed


def test_what_rounding_does_is_within_the_bound():
    happened = 0
    for net in nets():
        for radius in (0.0, 30.0):
            for found, allowed in deviations(net, radius):
                assert found <= allowed
                happened += found > allowed / 1000
    assert happened > 20, "the bound is so loose that this test would not see a wrong one"


def test_a_bound_without_its_roundings_is_caught(monkeypatch):
    monkeypatch.setattr(Arithmetic, "gamma", lambda self, operations: 0.0)
    assert any(found > allowed for net in nets() for found, allowed in deviations(net, 0.1))


def test_a_bound_with_the_roundings_of_float64_is_caught(monkeypatch):
    monkeypatch.setattr(Arithmetic, "of", classmethod(lambda cls, dtype: cls(2.0**-53, 1e-300, 1e300)))
    assert any(found > allowed for net in nets() for found, allowed in deviations(net, 0.1))


def swamped():
    """One input: the first layer adds 2^24, where float32 counts in twos, and the last one takes it away again."""
    net = GloRoNet(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)), 1.0, (1,))
    with torch.no_grad():
        net.module[0].weight.fill_(1.0)
        net.module[0].bias.fill_(2.0**24)
        net.module[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net.module[2].bias.copy_(torch.tensor([-(2.0**24), 0.1]))
    return net.eval()


def test_rounding_breaks_a_real_certificate_and_executed_refuses_it():
    net = swamped()
    x = torch.tensor([[1.5]])
    plain = net.certify(x)
    # In real arithmetic the margin is 1.4 and the radius 1.4; the program changes its mind half as far away.
    assert plain.certified.item()
    assert plain.prediction.item() == 0
    assert net.module(torch.tensor([[1.0]])).argmax().item() == 1
    refused = net.certify(x, executed=True)
    assert not refused.certified.item()
    assert refused.radius.item() == 0
    assert refused.real_radius.item() == plain.radius.item()


def test_cancelling_products_break_real_certificates_and_no_executed_one():
    # f_0 - f_1 = m (x_0 - 0.7 x_1) with rounded products: the search walks over the float32 neighbours of an image.
    torch.manual_seed(5)
    broken = 0
    for _ in range(15):
        m = float(torch.rand(()) + 1) * 2.0 ** float(torch.randint(0, 60, ()))
        net = GloRoNet(nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)), 1e-9, (2,))
        with torch.no_grad():
            net.module[0].weight.copy_(torch.tensor([[m, -m * 0.7]]))
            net.module[1].weight.copy_(torch.tensor([[0.5], [-0.5]]))
        net.eval()
        second = torch.rand(64, 1) * 0.5 + 0.5
        x = torch.cat([second * 0.7, second], dim=1) + torch.randint(-4, 5, (64, 2)) * 2.0**-24
        plain, executed = net.certify(x), net.certify(x, executed=True)
        for move in torch.cartesian_prod(torch.arange(-4, 5), torch.arange(-4, 5)) * 2.0**-24:
            at = x + move
            distance = (at.double() - x.double()).norm(dim=1)
            flipped = net.module(at).argmax(1) != plain.prediction
            broken += int((flipped & (distance < plain.radius)).sum())
            assert not (flipped & (distance < executed.radius)).any()
    assert broken > 0


def test_no_search_breaks_an_executed_certificate_of_a_net_with_huge_biases():
    torch.manual_seed(0)
    certified = 0
    for exponent in (0, 8, 12, 16, 20):
        net = GloRoNet(nn.Sequential(nn.Linear(4, 4), MinMax(), nn.Linear(4, 2)), 0.0, (4,))
        with torch.no_grad():
            net.module[0].bias.copy_(2.0**exponent * torch.tensor([1.0, 1.5, 1.25, 1.75]))
            pattern = torch.tensor([[1.0, 0.5, -1.0, 0.3], [0.1, -0.2, 0.4, 0.6]])
            net.module[2].weight.copy_(pattern)
            net.module[2].bias.copy_(-net.module[2](net.module[0].bias) + net.module[2].bias)
        x = torch.randn(100, 4)
        certificate = net.eval().certify(x, executed=True)
        certified += int(certificate.radius.gt(0).sum())
        logits = net.module(x)
        gradient = (net.module[2].weight[0] - net.module[2].weight[1]) @ net.module[0].weight
        towards = -torch.sign(logits[:, :1] - logits[:, 1:]) * gradient / gradient.norm()
        for share in (0.5, 0.9, 0.999):
            noise = torch.randn(20, *x.shape)
            noise = noise / noise.norm(dim=-1, keepdim=True)
            for direction in (towards, *noise):
                at = x + direction * (certificate.radius * share).float()[:, None]
                inside = (at.double() - x.double()).norm(dim=1) < certificate.radius
                assert not ((net.module(at).argmax(1) != certificate.prediction) & inside).any()
    assert certified > 50


def test_radius_decides_for_every_epsilon_and_is_never_above_the_real_one():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), MinMax(), nn.Flatten(), nn.Linear(64, 10), MinMax(), nn.Linear(10, 4))
    net = GloRoNet(module, 0.1, (1, 6, 6)).eval()
    x = torch.rand(10, 1, 6, 6)
    certificate = net.certify(x, executed=True)
    assert certificate.executed
    assert (certificate.radius <= certificate.real_radius).all()
    assert (certificate.radius > 0.9 * certificate.real_radius).float().mean() > 0.8
    for index, radius in enumerate(certificate.radius.tolist()):
        for epsilon in (radius, math.nextafter(radius, 0.0) if radius else 0.0):
            again = net.certify(x, epsilon, executed=True)
            assert torch.equal(again.radius, certificate.radius)
            assert torch.equal(again.certified, again.radius > epsilon)
            assert again.certified[index].item() == (radius > epsilon)


def test_the_bound_on_rounding_follows_the_weights():
    net = swamped()
    x = torch.tensor([[1.5]])
    assert net.certify(x, executed=True).radius.item() == 0
    with torch.no_grad():
        net.module[0].bias.zero_()
        net.module[2].bias.zero_()
    assert net.certify(x, executed=True).radius.item() == pytest.approx(1.5, rel=1e-5)


SELECTIONS = {
    "MaxPool": nn.MaxPool2d(3, 2, padding=1),
    "GroupSort": GroupSort(4),
    "shuffle": nn.PixelShuffle(2),
    "reflect": nn.ReflectionPad2d(1),
    "dropout": nn.Dropout(0.5),
}
ROUNDING = {
    "AvgPool": nn.AvgPool2d(3, 2, padding=1),
    "AvgPool by a number": nn.AvgPool2d((2, 3), 1, divisor_override=5),
    "adaptive": nn.AdaptiveAvgPool2d((2, 3)),
    "transposed": nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1),
    "residual": ResidualConv2d(4, 3),
    "circular": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "reflect and convolve": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("kind", SELECTIONS | ROUNDING)
def test_every_kind_of_layer_stays_within_its_bound(kind):
    layer = (SELECTIONS | ROUNDING)[kind]
    shape = (4, 5, 6)
    net = GloRoNet(nn.Sequential(copy.deepcopy(layer), nn.Flatten()), 0.1, shape)
    # Certified between two steps of training: the copies stay in evaluation mode.
    net.train()
    x = torch.randn(8, *shape)
    before = x.clone()
    certificate = net.certify(x, executed=True)
    assert torch.equal(x, before)
    assert (certificate.radius <= certificate.real_radius).all()
    state = net._executed[1].graph(x)
    with torch.no_grad():
        program = net.eval().module(x.clone()).double()
    off = (program - state.value.flatten(1)).norm(dim=1)
    assert (off <= state.deviation.constant + state.error).all()
    if kind in SELECTIONS:
        assert (off == 0).all()
    else:
        assert (off > state.deviation.constant / 1000).any()


@pytest.mark.parametrize("activation", [nn.ReLU, MinMax])
def test_layers_that_write_over_their_input_are_certified_the_same(activation):
    radii = []
    for inplace in (False, True):
        torch.manual_seed(0)
        layer = activation(inplace=inplace)
        net = GloRoNet(nn.Sequential(nn.Linear(3, 4), nn.Identity(), layer, nn.Linear(4, 2)), 0.1, (3,)).eval()
        radii.append(net.certify(torch.randn(5, 3), executed=True).radius)
    assert torch.equal(*radii)


@pytest.mark.parametrize("scale", [2.0**100, 2.0**127])
def test_what_may_overflow_is_not_certified(scale):
    net = GloRoNet(nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)), 1.0, (2,))
    with torch.no_grad():
        net.module[0].weight.copy_(torch.eye(2) * scale)
        net.module[2].weight.copy_(torch.eye(2) / scale)
    x = torch.tensor([[1.9, 0.0], [2.0**20, 0.0]])
    radius = net.eval().certify(x, executed=True).radius
    # Beyond 2^28 / scale' the first layer overflows, whatever real arithmetic says.
    assert (radius <= 2.0**128 / scale).all()
    assert (radius > 0).tolist() == ([True, True] if scale == 2.0**100 else [False, False])


def test_float64_nets_have_their_own_rounding():
    torch.manual_seed(2)
    net = GloRoNet(nn.Sequential(nn.Linear(3, 4), MinMax(), nn.Linear(4, 2)).double(), 0.1, (3,)).eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    certificate = net.certify(x, executed=True)
    assert (certificate.radius >= certificate.real_radius * (1 - 1e-9)).all()
    assert (certificate.radius < certificate.real_radius).all()


def test_half_precision_is_refused():
    net = GloRoNet(nn.Sequential(nn.Linear(3, 2)).bfloat16(), 0.1, (3,)).eval()
    with pytest.raises(ConfigError, match=r"bfloat16; convert it with \.float\(\)"):
        net.certify(torch.zeros(1, 3, dtype=torch.bfloat16), executed=True)


def test_a_layer_that_rounds_in_unknown_ways_is_refused_by_name():
    net = GloRoNet(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), 0.1, (3,)).eval()
    with pytest.raises(ArchitectureError, match="1 is a Tanh"):
        net.certify(torch.zeros(1, 3), executed=True)


def test_logits_that_sums_do_not_explain_are_refused(monkeypatch):
    net = GloRoNet(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 0.1, (3,)).eval()
    x = torch.randn(4, 3)
    net.certify(x, executed=True)
    run = type(net._plan).run
    # As TF32 would: eleven bits of every weight.
    monkeypatch.setattr(type(net._plan), "run", lambda plan, x: run(plan, x) * (1 + 2.0**-11))
    with pytest.raises(ExecutionError, match="computed in another way"):
        net.certify(x, executed=True)


def test_an_overflow_on_the_way_is_no_certificate_and_no_error():
    # -3e38 - 3e38 + 5e38: a sum that may overflow to -inf, which ReLU takes for 0.
    net = GloRoNet(nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)), 0.0, (3,))
    with torch.no_grad():
        net.module[0].weight.copy_(torch.tensor([[-3e38, -3e38, 3e38], [1.0, 0.0, 0.0]]))
    assert net.eval().certify(torch.tensor([[1.0, 1.0, 2.5]]), executed=True).radius.item() == 0


@pytest.fixture
def conv_net():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    return GloRoNet(module, 0.1, (1, 4, 4)).eval()


@contextmanager
def other_arithmetic(kind):
    """Settings by which a CPU may compute float32 otherwise than by sums of products."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        if kind == "nnpack":
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        elif kind == "medium":
            stack.callback(torch.set_float32_matmul_precision, "highest")
            torch.set_float32_matmul_precision("medium")
        else:
            patch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
        yield


OTHERS = ("nnpack", "medium", "fpmath")


class Multiplied(TorchDispatchMode):
    """Collects the types in which matrices are multiplied and convolved."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("convolution", "mm.", "linear")):
            self.types |= {x.dtype for x in args if isinstance(x, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", OTHERS)
def test_where_settings_allow_other_arithmetic_sums_are_taken_in_float64(conv_net, kind):
    x = torch.randn(20, 1, 4, 4)
    usual = conv_net.certify(x, executed=True)
    exact = copy.deepcopy(conv_net.module).double()(x.double())
    with other_arithmetic(kind), Multiplied() as multiplied:
        found = conv_net.certify(x, executed=True)
    assert multiplied.types == {torch.float64}
    # Two layers, each rounded once.
    assert (found.logits - exact).abs().max() <= 2.0**-21 * exact.abs().max()
    assert found.logits.dtype == torch.float32
    assert (found.radius <= found.real_radius).all()
    torch.testing.assert_close(found.radius, usual.radius, rtol=1e-4, atol=1e-6)
    with Multiplied() as multiplied:
        assert torch.equal(conv_net.certify(x, executed=True).logits, usual.logits)
    assert torch.float32 in multiplied.types


def test_products_of_onednn_are_taken_in_float64_too(monkeypatch):
    monkeypatch.setattr(sys.modules["gloro_fast.ops.dense_op"], "_pays", lambda a, b: a.dtype == torch.float32)
    net = GloRoNet(nn.Sequential(nn.Linear(30, 20), MinMax(), nn.Linear(20, 4)), 0.1, (30,)).eval()
    with other_arithmetic("medium"), Multiplied() as multiplied:
        net.certify(torch.rand(5, 30), executed=True)
    assert multiplied.types == {torch.float64}


def test_weights_that_are_computed_anew_need_the_usual_settings():
    module = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    net = GloRoNet(module, 0.1, (4,)).eval()
    net.certify(torch.zeros(1, 4), executed=True)
    with other_arithmetic("medium"), pytest.raises(ConfigError, match=r"oneDNN may use bf16.*'ieee'"):
        net.certify(torch.zeros(1, 4), executed=True)


def test_emulated_float64_is_refused(conv_net, monkeypatch):
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    with pytest.raises(ConfigError, match=r"CUBLAS_EMULATE_DOUBLE_PRECISION is 1.*=0"):
        sums_of_products(conv_net._plan, torch.device("cuda"))
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "0")
    assert sums_of_products(conv_net._plan, torch.device("cuda")) is SUMS
    with pytest.raises(ConfigError, match="on mps; move it to the CPU"):
        sums_of_products(conv_net._plan, torch.device("mps"))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
def test_onednn_is_asked_for_direct_convolutions():
    code = (
        "import torch; import torch.nn.functional as F\n"
        "with torch.no_grad():\n"
        "  for b, k, s in ((1, 3, 2), (32, 3, 1), (32, 1, 1), (32, 5, 1)):\n"
        "    F.conv2d(torch.randn(b, 16, 16, 16), torch.randn(16, 16, k, k), None, s, k // 2)\n"
    )
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    calls = [line for line in said.stdout.splitlines() if ",exec,cpu,convolution," in line]
    if not calls:
        pytest.skip("oneDNN tells nothing here")
    assert all("alg:convolution_direct" in line for line in calls)
