"""The product of a dense layer by oneDNN: the same numbers as PyTorch's own, to rounding, and the same gradients."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

from gloro_fast import GloRoNet, ops
from gloro_fast.graph.execution import BiasedMinMax
from gloro_fast.graph.flattening import FlattenedLinear
from gloro_fast.native import extension

dense_file = importlib.import_module("gloro_fast.ops.dense_op")

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this PyTorch has no oneDNN",
)


@pytest.fixture
def onednn(monkeypatch):
    """Whatever the processor, and for small products too."""
    monkeypatch.setattr(dense_file, "mkl_holds_back", lambda: True)
    monkeypatch.setattr(dense_file, "_WORTH_IT", 1)


def products(work):
    """Run ``work`` and count its calls of oneDNN and of MKL."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    names = [event.name for event in recorded.events()]
    return names.count("mkldnn::_linear_pointwise"), names.count("aten::mm") + names.count("aten::addmm")


def outcome(function, *tensors):
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    y = function(*tensors)
    return [y, *torch.autograd.grad((y * torch.linspace(0.5, 1.5, y.numel()).reshape(y.shape)).sum(), tensors)]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 1, 1), (7, 33, 5), (64, 130, 20), (3, 1, 17)])
def test_it_is_the_reference_to_rounding(onednn, batch, inputs, outputs, with_bias):
    tensors = [torch.randn(batch, inputs), torch.randn(outputs, inputs), *([torch.randn(outputs)] * with_bias)]
    exact = outcome(ops.dense_reference, *[t.double() for t in tensors])
    # What the terms of each sum come to without their signs, of which every rounding is at most 2^-24, in any order.
    sizes = outcome(ops.dense_reference, *[t.double().abs() for t in tensors])
    roundings = max(batch, inputs, outputs) + 2
    for got, wanted, size in zip(outcome(ops.dense, *tensors), exact, sizes, strict=True):
        assert got.shape == wanted.shape
        assert ((got - wanted).abs() <= roundings * 2**-24 * size).all()


def test_strided_operands(onednn):
    x, weight = torch.randn(40, 12)[::2], torch.randn(12, 9).T
    with torch.no_grad():
        torch.testing.assert_close(ops.dense(x, weight), x @ weight.T)


def test_forward_and_backward_go_through_onednn(onednn):
    x, weight = torch.randn(8, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    assert products(lambda: ops.dense(x, weight).sum().backward()) == (3, 0)
    with torch.no_grad():
        assert products(lambda: ops.dense(x, weight)) == (1, 0)


def test_gradients_of_gradients(onednn):
    x, weight = torch.randn(5, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)

    def second(function):
        (first,) = torch.autograd.grad(function(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, weight])

    for got, wanted in zip(second(ops.dense), second(ops.dense_reference), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.bfloat16(),
        lambda x: x[None],
        lambda x: x[:0],
    ],
    ids=["float64", "bfloat16", "three dimensions", "empty batch"],
)
def test_elsewhere_it_is_the_reference(onednn, change):
    x = change(torch.randn(8, 6))
    weight = torch.randn(4, 6, dtype=x.dtype)
    assert products(lambda: ops.dense(x, weight))[0] == 0
    assert torch.equal(ops.dense(x, weight), ops.dense_reference(x, weight))


def test_where_onednn_is_switched_off_or_the_call_is_transformed_it_is_the_reference(onednn):
    x, weight = torch.randn(8, 6), torch.randn(4, 6)
    with torch.backends.mkldnn.flags(enabled=False):
        assert products(lambda: ops.dense(x, weight))[0] == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.dense(x, weight).dtype == torch.bfloat16
    rows = torch.vmap(lambda row: ops.dense(row[None], weight)[0])(x)
    torch.testing.assert_close(rows, x @ weight.T)


def test_tangents_are_kept(onednn):
    x, weight, direction = torch.randn(8, 6), torch.randn(4, 6), torch.randn(8, 6)
    for grad in (True, False):
        with torch.set_grad_enabled(grad), forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(ops.dense(forward_ad.make_dual(x, direction), weight)).tangent
        torch.testing.assert_close(tangent, direction @ weight.T)


def test_small_products_and_intels_processors_keep_mkl(monkeypatch):
    x, weight = torch.randn(256, 512), torch.randn(128, 512)
    monkeypatch.setattr(dense_file, "mkl_holds_back", lambda: True)
    assert products(lambda: ops.dense(x, weight))[0] == 1
    assert products(lambda: ops.dense(x[:8], weight))[0] == 0
    monkeypatch.undo()
    for vendor, expected in (("GenuineIntel", False), ("", False), ("AuthenticAMD", True)):
        dense_file.mkl_holds_back.cache_clear()
        monkeypatch.setattr(extension, "processor_vendor", lambda vendor=vendor: vendor)
        assert dense_file.mkl_holds_back() is (expected and torch._C.has_mkl)
    dense_file.mkl_holds_back.cache_clear()


def test_the_layers_of_a_net_use_it(onednn):
    linear = nn.Linear(12, 6)
    rows, images = torch.randn(16, 12), torch.randn(16, 3, 2, 2)
    with torch.no_grad():
        assert products(lambda: BiasedMinMax(linear)(rows)) == (1, 0)
        assert products(lambda: FlattenedLinear(linear)(images)) == (1, 0)
    moved = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert products(lambda: FlattenedLinear(linear)(moved).sum().backward()) == (3, 0)


def test_runs_repeat_bit_for_bit_and_certificates_hold(onednn, monkeypatch):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))
    images = torch.rand(64, 3, 4, 4)
    certificates = []
    for _ in range(2):
        net = GloRoNet(copy.deepcopy(module), 0.1, (3, 4, 4)).eval()
        certificates.append(net.certify(images, executed=True))
    assert torch.equal(certificates[0].logits, certificates[1].logits)
    monkeypatch.undo()
    plain = GloRoNet(copy.deepcopy(module), 0.1, (3, 4, 4)).eval().certify(images, executed=True)
    # What covers the rounding of one library covers that of the other.
    assert bool((certificates[0].radius <= plain.real_radius).all())
    assert bool((plain.radius <= certificates[0].real_radius).all())
