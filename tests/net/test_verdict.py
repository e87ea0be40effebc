"""Certificates on a device that Python waits for: it looks last at what the device says of weights and images."""

import copy
import sys

import pytest
import torch
from small_nets import SHAPE, batch, glorot_net
from test_bounded_net import CHANGES
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError, DataError, StaleBoundError
from gloro_fast.native import extension
from gloro_fast.net import bounded_net
from gloro_fast.net.snapshot import Snapshot
from gloro_fast.ops import fingerprint_reference
from gloro_fast.ops.image_codes import image_codes_reference
from gloro_fast.ops.verdict import Verdict, verdict_reference

NOTHING = {"detach", "view", "t", "_unsafe_view", "reshape", "unsqueeze", "select", "slice", "alias", "promote_types"}
OURS = ["image_codes", "fingerprint_shares", "verdict"]


@pytest.fixture(autouse=True)
def _looking_last(monkeypatch):
    monkeypatch.setattr(bounded_net, "_looks_last", lambda x: len(x) > 0)


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Call with a net and images what the CPU does."""

    def call(work):
        with monkeypatch.context() as patch:
            patch.setattr(bounded_net, "_looks_last", lambda x: False)
            return work()

    return call


def same(one, other):
    for name in ("prediction", "certified", "radius", "logits", "real_radius"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_it_signs_what_the_cpu_signs(on_a_cpu):
    net = glorot_net(0.02).eval()
    x, _ = batch(100)
    for epsilon in (None, 0.0, 0.05):
        same(net.certify(x, epsilon), on_a_cpu(lambda epsilon=epsilon: net.certify(x, epsilon)))
    assert 0 < net.certify(x).certified.sum() < 100
    assert torch.equal(net(x), on_a_cpu(lambda: net(x)))
    x[3, 0, 2, 2], x[5, 0, 1, 1] = torch.nan, torch.inf
    logits = net(x)
    assert torch.equal(logits, on_a_cpu(lambda: net(x)))
    assert (logits.argmax(1) == 5)[[3, 5]].all()


def test_the_gradient_of_evaluation_is_the_same(on_a_cpu):
    net = glorot_net().eval()

    def gradient():
        x = batch(7)[0].mul(0).add(0.3).requires_grad_()
        net(x)[:, 2].sum().backward()
        return x.grad

    found = gradient()
    assert found.any()
    assert torch.equal(found, on_a_cpu(gradient))


def test_executed_certificates_look_last_too(on_a_cpu, monkeypatch):
    """Python reads no hash before the layers run."""
    net = glorot_net(0.02).eval().freeze()
    x, _ = batch(20)
    wanted = on_a_cpu(lambda: net.certify(x, executed=True))
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "still_holds", lambda *_: pytest.fail("it waits for the weights first"))
        found = net.certify(x, executed=True)
    same(found, wanted)
    assert (found.radius < found.real_radius).any()
    net.module[0].weight.data[0, 0, 0, 0] += 1.0
    with pytest.raises(StaleBoundError, match="call freeze"):
        net.certify(x, executed=True)
    net.unfreeze()
    same(net.certify(x, executed=True), on_a_cpu(lambda: net.certify(x, executed=True)))
    net.module[0].weight.data[0, 0, 0, 0] -= 1.0
    same(net.certify(x, executed=True), on_a_cpu(lambda: net.certify(x, executed=True)))
    assert torch.equal(net.certify(x, executed=True).radius, wanted.radius)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_never_signed_when_frozen(change):
    net = glorot_net().eval().freeze()
    x, _ = batch()
    net.certify(x)
    change(net)
    x = x.to(net.module[0].weight.dtype)
    for use in (lambda: net.certify(x), lambda: net(x)):
        with pytest.raises(StaleBoundError, match="call freeze"):
            use()


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_bounded_anew_otherwise(change):
    net = glorot_net().eval()
    twin = copy.deepcopy(net)
    for one in (net, twin):
        one.certify(batch()[0])
        change(one)
    x = batch()[0].to(net.module[0].weight.dtype)
    same(net.certify(x), GloRoNet(net.module, 0.1, SHAPE).eval().certify(x))
    assert torch.equal(twin(x), GloRoNet(twin.module, 0.1, SHAPE).eval()(x))


def test_the_hash_is_what_sees_a_changed_bit(monkeypatch):
    monkeypatch.setattr(Snapshot, "shares", lambda snapshot: snapshot.hashes[:, None])
    net = glorot_net().eval().freeze()
    net.module[0].weight.data[0, 0, 0, 0] += 1
    net.certify(batch()[0])


def test_images_are_refused_as_ever():
    net = glorot_net().eval().freeze()
    x, _ = batch()
    x[0, 0, 0, 0], x[4, 0, 0, 1] = torch.nan, -torch.inf
    with pytest.raises(DataError, match="2 of 2048 pixels are NaN or infinite"):
        net.certify(x)
    with pytest.warns(UserWarning, match="pixels range from 2 to 3"):
        net.certify(batch()[0] * 0 + torch.tensor([2.0, 3.0] * 4))
    with pytest.raises(DataError, match="empty"):
        net.certify(x[:0])
    assert net(x[:0]).shape == (0, 6)


def test_images_that_a_layer_has_mended_are_refused(monkeypatch):
    net = glorot_net().eval().freeze()
    x = torch.full((2, *SHAPE), torch.nan)
    run = type(net._plan).run
    monkeypatch.setattr(type(net._plan), "run", lambda plan, x: run(plan, x.nan_to_num_(0.5)))
    with pytest.raises(DataError, match="before a layer wrote over them"):
        net.certify(x)


class Log(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in NOTHING:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_themselves(monkeypatch):
    """Let our ops be logged as themselves, as on a GPU, where tests/kernels finds a launch in each."""
    if not extension.available():
        pytest.skip(f"compiled ops: {extension.why_not()}")
    library = torch.library.Library("gloro_fast", "IMPL")
    library.impl("fingerprint_shares", lambda tensors: fingerprint_reference(tensors)[:, None], "CPU")
    library.impl("image_codes", image_codes_reference, "CPU")
    library.impl("verdict", lambda *given: tuple(verdict_reference(*given)), "CPU")
    for module, name in ((bounded_net, "image_codes"), (bounded_net, "verdict")):
        op = getattr(torch.ops.gloro_fast, name)
        result = (lambda *given, op=op: Verdict(*op(*given))) if name == "verdict" else op
        monkeypatch.setattr(module, name, result)
    monkeypatch.setattr(sys.modules["gloro_fast.ops.fingerprint_op"], "_runs_on_gpu", bool)
    yield
    library._destroy()


def test_certify_is_the_forward_pass_and_three_launches_and_a_copy(monkeypatch, as_themselves):
    net = glorot_net().eval().freeze()
    x, _ = batch()
    copies = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (copies.append(len(log.names)), cpu(tensor))[1])
    with torch.no_grad(), Log() as log:
        net._plan.run(x)
    forward = log.names
    with Log() as log:
        certificate = net.certify(x)
    assert log.names == [*OURS[:2], *forward, OURS[2]]
    assert copies == [len(log.names)]  # once, when all is on its way
    assert not any("scalar" in name for name in log.names)
    assert certificate.radius.any()


def test_evaluation_reads_once_when_all_is_on_its_way(monkeypatch, as_themselves):
    net = glorot_net().eval().freeze()
    copies = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (copies.append(list(log.names)), cpu(tensor))[1])
    with torch.no_grad(), Log() as log:
        net(batch()[0])
    assert len(copies) == 1
    assert copies[0][-1] == "verdict"
    assert not {"_local_scalar_dense", "item", "nonzero", "lift_fresh", "_to_copy"} & set(log.names)


def test_recorders_that_would_keep_the_constant_are_refused():
    net = glorot_net().eval().freeze()
    x, _ = batch()
    for record in (lambda: torch.jit.trace(net, x), lambda: make_fx(net)(x)):
        with torch.no_grad(), pytest.raises(ConfigError, match=r"use torch\.export\.export"):
            record()
