"""Certificates in a CUDA graph, imitated on the CPU: weights are compared at every replay, by the graph alone."""

import pytest
import torch
from fake_graph import FakeRecorder
from torch import nn
from torch.nn.utils import parametrizations

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError, StaleBoundError
from gloro_fast.net import bounded_net
from gloro_fast.net.snapshot import Snapshot
from gloro_fast.nn import MinMax
from gloro_fast.ops import capturing

SHAPE = (1, 6, 6)


def frozen(epsilon=0.05):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), MinMax(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    return GloRoNet(module, epsilon, SHAPE).eval().freeze()


def images(seed):
    return torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def captured(monkeypatch):
    """Record work as a graph; gives its replay and where its result lies."""
    monkeypatch.setattr(bounded_net, "_captured", [])

    def record(work):
        results = []
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(capturing, "is_capturing", lambda device: True)
            replay = FakeRecorder().record(lambda: results.append(work()))
        return replay, results[0]

    return record


def parametrized():
    net = frozen()
    parametrizations.weight_norm(net.module[4])
    return net.unfreeze().freeze()


@pytest.mark.parametrize("make", [frozen, parametrized])
def test_replays_sign_what_python_signs_unless_weights_have_changed(captured, make):
    net, x = make(), images(0)
    replay, certificate = captured(lambda: net.certify(x))
    for seed in (1, 2):
        x.copy_(images(seed))
        replay()
        expected = net.certify(x)
        assert torch.equal(certificate.radius, expected.radius)
        assert torch.equal(certificate.certified, expected.certified)
        assert torch.equal(certificate.prediction, expected.prediction)
    assert 0 < expected.certified.sum() < 20
    for tensor in [*net.module.parameters(), *net.module.buffers()]:
        flat, kept = tensor.data.view(-1), tensor.detach().clone()
        flat[-1:] = flat[-1:] + 1 if not tensor.is_floating_point() else torch.nextafter(flat[-1:], torch.tensor(9.0))
        replay()
        assert not certificate.radius.any()
        assert not certificate.certified.any()
        tensor.data.copy_(kept)
        replay()
        assert torch.equal(certificate.radius, expected.radius)


@pytest.mark.parametrize("make", [frozen, parametrized])
def test_evaluation_gives_bottom_where_weights_have_changed(captured, make):
    net, x = make(), images(0)
    replay, logits = captured(lambda: net(x))
    replay()
    assert torch.equal(logits, net(x))
    assert (logits.argmax(1) != 5).any()
    net.module[0].weight.data[0] *= 2
    replay()
    assert (logits.argmax(1) == 5).all()
    assert logits[:, 5].isinf().all()


def test_an_image_that_is_not_finite_certifies_nothing(captured):
    net, x = frozen(0.0), images(0)
    replay, certificate = captured(lambda: net.certify(x))
    again, logits = captured(lambda: net(x))
    x[3, 0, 2, 2], x[7, 0, 0, 0] = torch.nan, -torch.inf
    replay()
    again()
    doubtful = torch.tensor([3, 7])
    assert certificate.radius.count_nonzero() == 18
    assert not certificate.radius[doubtful].any()
    assert not certificate.certified[doubtful].any()
    assert (logits[doubtful].argmax(1) == 5).all()


def test_nothing_is_read_back_nor_copied_from_the_host(captured):
    """The imitation refuses it."""
    net, x = frozen(), images(0)
    captured(lambda: net.certify(x))
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        captured(lambda: net.certify(x).radius.max().item())


def test_a_graph_does_not_take_a_later_bound_for_its_own(captured):
    """Memory that the first bound left would be where the graph finds the second."""
    net, x = frozen(), images(0)
    replay, certificate = captured(lambda: net.certify(x))
    bound = net._signed
    net.module[0].weight.data *= 2
    net.unfreeze().freeze()
    replay()
    assert not certificate.radius.any()
    assert bounded_net._captured == [bound]
    captured(lambda: net.certify(x))
    captured(lambda: net.certify(x))
    assert len(bounded_net._captured) == 2


def test_the_hash_is_what_sees_a_changed_weight(captured, monkeypatch):
    monkeypatch.setattr(Snapshot, "shares", lambda snapshot: snapshot.hashes[:, None])
    net, x = frozen(), images(0)
    replay, certificate = captured(lambda: net.certify(x))
    net.module[0].weight.data[0] *= 2
    replay()
    assert certificate.radius.any()


def test_what_a_graph_cannot_do_is_said(captured):
    net, x = frozen(), images(0)
    for work, message in (
        (lambda: net.certify(x, executed=True), "executed=True"),
        (lambda: net.lipschitz, "ask for the bound before"),
    ):
        with pytest.raises(ConfigError, match=message):
            captured(work)
    net.unfreeze()
    for use in (net.certify, net):
        with pytest.raises(ConfigError, match=r"call freeze\(\) before"):
            captured(lambda use=use: use(x))


def test_a_structure_that_changed_before_is_refused(captured):
    net, x = frozen(), images(0)
    net.module[1] = nn.ReLU()
    with pytest.raises(StaleBoundError, match="again before capturing"):
        captured(lambda: net.certify(x))
