"""GloRoNet: certificates, and every way in which the weights of a frozen net may change."""

import copy
import io
import math
import pickle

import pytest
import torch
from small_nets import SHAPE, batch, classifier, exact_lipschitz, glorot_net
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, vector_to_parameters

from gloro_fast import GloRoNet
from gloro_fast.errors import (
    ConfigError,
    FrozenError,
    StaleBoundError,
)
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import MinMax


class TestCertify:
    def test_evaluation_logits_say_the_same_as_the_certificate(self):
        net = glorot_net(0.02).eval()
        x, _ = batch(200)
        certificate, logits = net.certify(x), net(x)
        assert torch.equal(logits.argmax(1) != 5, certificate.certified)
        assert torch.equal(logits[:, 5] < logits[:, :5].amax(1), certificate.certified)
        assert 0 < certificate.certified.sum() < 200
        assert torch.equal(certificate.prediction, net.module(x).argmax(1))
        assert certificate.radius.dtype == torch.float64
        assert certificate.method == "auto"
        assert net.bound.kind == "upper bound"

    def test_certified_is_radius_above_epsilon_for_every_epsilon(self):
        net = glorot_net().eval()
        x, _ = batch()
        radius = net.certify(x).radius
        assert len(radius.unique()) > 30
        for epsilon in [0.0, *radius.tolist(), 1e9]:
            assert torch.equal(net.certify(x, epsilon).certified, radius > epsilon)

    def test_lipschitz_is_that_of_everything_before_the_last_layer(self):
        net = glorot_net().eval()
        exact = exact_lipschitz(net)
        assert exact < net.lipschitz < exact * 1.001
        assert exact < net.freeze(effort="tight").lipschitz < exact * (1 + 1e-6)
        assert 0.98 * exact < net.freeze("power").lipschitz <= exact * (1 + 1e-12)

    def test_training_mode_makes_no_difference_and_stays(self):
        net = glorot_net()
        x, _ = batch()
        in_training = net.certify(x)
        assert net.training
        assert net.module[0].training
        assert torch.equal(in_training.radius, net.eval().certify(x).radius)

    def test_autocast_is_switched_off(self):
        net = glorot_net().eval()
        x, _ = batch()
        with torch.autocast("cpu", torch.bfloat16):
            inside, logits = net.certify(x), net(x)
        assert torch.equal(inside.radius, net.certify(x).radius)
        assert torch.equal(logits, net(x))

    def test_half_weights_are_certified_as_the_values_they_are(self):
        net = glorot_net().eval().bfloat16()
        x, _ = batch()
        certificate = net.certify(x.bfloat16())
        widened = GloRoNet(net.module.float(), 0.1, SHAPE).eval()
        assert certificate.lipschitz == widened.lipschitz

    def test_nan_weights_and_zero_weights_certify_nothing(self):
        net = glorot_net().eval()
        x, _ = batch()
        net.module[0].weight.data[0, 0, 0, 0] = math.nan
        assert not net.certify(x, 0.0).certified.any()
        assert (net(x).argmax(1) == 5).all()
        nn.init.zeros_(net.module[0].weight)
        nn.init.zeros_(net.module[-1].weight)
        assert not net.certify(x, 0.0).certified.any()

    def test_a_net_that_ends_in_no_dense_layer_uses_the_general_form(self):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), MinMax())
        net = GloRoNet(module, 0.01, SHAPE).eval()
        x, _ = batch()
        certificate = net.certify(x)
        top2 = module(x).topk(2).values
        k = torch.linalg.matrix_norm(module[1].weight.double(), 2) * 2**0.5
        torch.testing.assert_close(certificate.radius, (top2[:, 0].double() - top2[:, 1]) / k, rtol=1e-2, atol=1e-6)

    def test_general_form_trains(self):
        net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), MinMax()), 0.01, SHAPE)
        net(batch()[0]).sum().backward()
        assert net.module[1].weight.grad.isfinite().all()


def by_fused_adam(net):
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.Adam(net.parameters(), 1e-2, fused=True).step()


def by_submodule(net):
    net.module[2] = type(net.module[2])(16, 32, 4, 2, padding="same")


def by_another_activation(net):
    # Same parameters, another function.
    net.module[1] = nn.ReLU()


def by_load_state_dict(net):
    net.load_state_dict(GloRoNet(classifier(), 0.1, SHAPE).state_dict())


def by_half(net):
    net.half()


def by_numpy(net):
    net.module[0].weight.detach().numpy()[0, 0, 0, 0] += 1


def by_vector(net):
    vector = parameters_to_vector(net.module.parameters()) * 1.01
    vector_to_parameters(vector, net.module.parameters())


def by_data(net):
    net.module[0].weight.data.mul_(1.5)


def by_new_data(net):
    net.module[0].weight.data = net.module[0].weight.data * 1.5


def by_head(net):
    net.module[-1].weight.data[0] *= 1.5


def by_bias(net):
    net.module[-1].bias.data[0] += 1


def by_parametrization(net):
    parametrizations.weight_norm(net.module[5])
    net.module[5].parametrizations.weight.original0.data *= 2


CHANGES = [
    by_fused_adam, by_submodule, by_another_activation, by_load_state_dict, by_half, by_numpy, by_vector, by_data,
    by_new_data, by_head, by_bias, by_parametrization,
]  # fmt: skip


class TestFrozenBound:
    @pytest.mark.parametrize("change", CHANGES)
    def test_a_changed_weight_is_never_signed_when_frozen(self, change):
        net = glorot_net().eval()
        x, _ = batch()
        net.freeze()
        net.certify(x)
        change(net)
        x = x.to(net.module[0].weight.dtype)
        for use in (lambda: net.certify(x), lambda: net(x), lambda: net.lipschitz):
            with pytest.raises(StaleBoundError, match="call freeze"):
                use()
        net.freeze().certify(x)

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_changed_weight_is_bounded_anew_otherwise(self, change):
        net = glorot_net().eval()
        x, _ = batch()
        net.certify(x)
        change(net)
        x = x.to(net.module[0].weight.dtype)
        fresh = GloRoNet(net.module, 0.1, SHAPE).eval()
        assert torch.equal(net.certify(x).radius, fresh.certify(x).radius)
        assert net.lipschitz == fresh.lipschitz
        assert torch.equal(net(x), fresh(x))

    def test_moves_and_memory_formats_are_no_change(self):
        net = glorot_net().eval().freeze()
        x, _ = batch()
        before = net.certify(x)
        net.to("cpu").to(memory_format=torch.channels_last).requires_grad_(False)
        assert net.certify(x).lipschitz == before.lipschitz

    def test_training_after_a_lazy_bound(self):
        net = glorot_net().eval()
        x, y = batch()
        before = net.lipschitz
        net.train()
        net(x, y, CrossEntropyLoss()).backward()
        torch.optim.SGD(net.parameters(), 0.5).step()
        assert net.eval().lipschitz != before

    def test_unfreeze(self):
        net = glorot_net().eval().freeze().unfreeze()
        by_data(net)
        net.certify(batch()[0])

    def test_epsilon_of_a_frozen_net(self):
        net = glorot_net().freeze()
        with pytest.raises(FrozenError, match="unfreeze"):
            net.epsilon = 0.5
        net.epsilon = 0.1
        net.unfreeze().epsilon = 0.5
        assert net.epsilon == 0.5

    def test_unknown_method(self):
        with pytest.raises(ConfigError, match="'power'"):
            glorot_net().freeze("pwer")

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
    def test_copies_are_whole_and_apart(self, duplicate):
        net = glorot_net().eval().freeze()
        x, _ = batch()
        twin = duplicate(net)
        assert torch.equal(twin.certify(x).radius, net.certify(x).radius)
        by_data(twin)
        net.certify(x)
        with pytest.raises(StaleBoundError):
            twin.certify(x)

    def test_torch_save_of_the_state(self):
        net = glorot_net()
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        other = glorot_net()
        other.load_state_dict(torch.load(file, weights_only=True))
        x, _ = batch()
        assert torch.equal(net.eval().certify(x).radius, other.eval().certify(x).radius)
