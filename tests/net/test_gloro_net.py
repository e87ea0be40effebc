"""GloRoNet: training, and what it refuses."""

import contextlib
import copy
import math
import pickle

import pytest
import torch
from autograd_nodes import nodes_of
from small_nets import SHAPE, batch, classifier, exact_lipschitz, glorot_net
from torch import nn
from torch.nn.utils import parameters_to_vector

from gloro_fast import GloRoNet
from gloro_fast.errors import (
    ArchitectureError,
    ConfigError,
    DataError,
    GloroFastError,
    UnknownLayerError,
)
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, TradesLoss
from gloro_fast.net import gloro_net
from gloro_fast.nn import BROConv2d, CayleyConv2d, CayleyLinear, LipschitzConstant, MinMax, register_lipschitz_rule
from gloro_fast.rules import registry


class Tempered(nn.Module):
    """Reads a number and a dtype of its own in its forward."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.gain = nn.Linear(4, 6), nn.Linear(6, 3), 1.0

    def forward(self, x):
        return self.head(torch.relu(self.body(x.to(self.body.weight.dtype)))) * self.gain


class TestTraining:
    def test_logits_are_those_of_the_module_and_bottom(self):
        net = glorot_net()
        x, _ = batch()
        logits = net(x)
        assert logits.shape == (32, 6)
        # A convolution may begin its sums with the bias, which the net adds behind it.
        torch.testing.assert_close(logits[:, :5], net.module(x))

    @pytest.mark.parametrize("criterion", [CrossEntropyLoss(), TradesLoss(1.5), TradesLoss(1.5, robust="ce")])
    def test_the_three_forms_of_the_loss_agree(self, criterion):
        nets = [copy.deepcopy(net) for net in [glorot_net()] * 3]
        x, y = batch()
        losses = [criterion(nets[0](x), y), nets[1](x, y, criterion), nets[2].loss(x, y, criterion)]
        gradients = []
        for net, loss in zip(nets, losses, strict=True):
            loss.backward()
            gradients.append(parameters_to_vector([p.grad for p in net.parameters()]))
        # The fused form adds in another order; the other two are the same computation.
        assert losses[1] == losses[2]
        assert torch.equal(gradients[1], gradients[2])
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)

    def test_a_criterion_it_does_not_know_gets_the_logits(self):
        net = glorot_net()
        twin = copy.deepcopy(net)  # a step moves the power iterates on
        x, y = batch()
        loss = net(x, y, lambda logits, labels: logits.sum() + 0 * labels.sum())
        torch.testing.assert_close(loss, twin(x).sum())
        assert net.batch_statistics is not None

    def test_a_replaced_layer_is_trained(self):
        net = glorot_net()
        x, y = batch()
        net(x)
        net.module[0] = type(net.module[0])(1, 16, 4, 2, padding="same")
        net(x, y, CrossEntropyLoss()).backward()
        assert net.module[0].weight.grad is not None
        torch.testing.assert_close(net(x)[:, :5], net.module(x))

    def test_a_hand_written_loop_learns_to_certify(self):
        # Two classes, bright and dark: separable with a margin far beyond epsilon.
        y = torch.arange(64) % 2
        x = (0.25 + 0.5 * y[:, None, None, None] + 0.1 * torch.rand(64, *SHAPE)).clamp(0, 1)
        net = GloRoNet(classifier(2), 0.3, SHAPE)
        optimizer, criterion = torch.optim.Adam(net.parameters(), 3e-3), TradesLoss(1.0)
        for _ in range(60):
            optimizer.zero_grad()
            net(x, y, criterion).backward()
            optimizer.step()
        certificate = net.eval().certify(x)
        assert certificate.certified.all()
        assert torch.equal(certificate.prediction, y)

    def test_the_gradient_reaches_every_parameter_but_the_head_bias_through_the_bound(self):
        net = glorot_net()
        x, _ = batch()
        net(x)[:, -1].sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        bound_only = torch.autograd.grad(net._training_lipschitz(), net.module[0].weight)[0]
        assert bound_only.abs().sum() > 0

    def test_estimates_close_in_on_the_spectral_norms_from_below(self):
        net = glorot_net()
        x, y = batch()
        for _ in range(100):
            net(x, y, CrossEntropyLoss())
        estimate, exact = net.batch_statistics.lipschitz.item(), exact_lipschitz(net)
        assert 0.98 * exact < estimate <= exact * (1 + 1e-5)

    def test_counts(self):
        net = glorot_net()
        x, y = batch()
        logits = net(x)
        net.train()(x, y, CrossEntropyLoss())
        prediction = net.module(x).argmax(1)
        assert net.batch_statistics.correct == (prediction == y).sum()
        net.epsilon = 0.01
        logits = net(x, prediction, lambda logits, labels: logits)
        expected = (logits.argmax(1) == prediction).sum()
        assert 0 < expected < len(x)
        for criterion in (CrossEntropyLoss(), TradesLoss(1.0), lambda logits, labels: logits.sum()):
            frozen_iterates = copy.deepcopy(net)
            frozen_iterates(x, prediction, criterion)
            assert abs(frozen_iterates.batch_statistics.verified - expected) <= 1
        assert logits.requires_grad
        assert not net.batch_statistics.lipschitz.requires_grad

    def test_epsilon_and_lambda_are_followed_where_they_lie(self):
        net, criterion = glorot_net(), TradesLoss(1.5)
        where = net._epsilon.on(torch.device("cpu")), criterion._lam.on(torch.device("cpu"))
        net.epsilon, criterion.lam = 0.2, 0.7
        assert [float(number) for number in where] == [net.epsilon, criterion.lam] == [0.2, 0.7]
        net(*batch(), criterion)
        assert net._epsilon.on(torch.device("cpu")) is where[0]
        assert criterion._lam.on(torch.device("cpu")) is where[1]
        assert not [key for key in (*net.state_dict(), *criterion.state_dict()) if "epsilon" in key or "lam" in key]

    @pytest.mark.parametrize("criterion", [TradesLoss(1.5), EmmaLoss(), lambda logits, labels: logits[:, -1].sum()])
    def test_one_backward_pass_for_several_epsilons(self, criterion):
        net = glorot_net()
        x, y = batch()
        gradients = []
        for together in (False, True):
            twin, losses = copy.deepcopy(net), []
            for epsilon in (0.01, 0.3):
                twin.epsilon = epsilon
                losses.append(twin(x, y, criterion))
                if not together:
                    losses.pop().backward()
            if together:
                sum(losses).backward()
            gradients.append(parameters_to_vector([p.grad for p in twin.parameters()]))
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
    def test_copies_have_their_own_epsilon_and_lambda(self, copied):
        net, criterion = glorot_net(), TradesLoss(1.5)
        before = net.epsilon
        net(*batch(), criterion)
        twins = copied(net), copied(criterion)
        net.epsilon, criterion.lam = 0.2, 0.7
        assert (twins[0].epsilon, twins[1].lam) == (before, 1.5)

    def test_iterates_are_float32_buffers_of_the_state_dict(self):
        net = glorot_net()
        keys = [key for key in net.state_dict() if key.startswith("iterates.")]
        assert keys == ["iterates.0", "iterates.1", "iterates.2"]
        net(batch()[0])
        other = glorot_net()
        other.load_state_dict(net.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(net.iterates.vectors(), other.iterates.vectors(), strict=True))
        for converted in (net.half(), net.bfloat16()):
            assert all(v.dtype == torch.float32 for v in converted.iterates.vectors())
        assert all(v.dtype == torch.float64 for v in net.double().iterates.vectors())

    def test_autocast_leaves_the_bound_in_float32(self):
        net = glorot_net()
        x, y = batch()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x)
            loss = net(x, y, TradesLoss(1.0))
        loss.backward()
        assert logits.dtype == torch.float32
        assert net.batch_statistics.lipschitz.dtype == torch.float32
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters())

    @pytest.mark.parametrize("threads", [1, 2])
    def test_same_seed_same_bits(self, threads):
        torch.set_num_threads(threads)

        def run():
            torch.manual_seed(3)
            net = glorot_net()
            x, y = batch()
            optimizer = torch.optim.Adam(net.parameters(), 1e-3)
            for _ in range(3):
                optimizer.zero_grad()
                net(x, y, TradesLoss(1.0)).backward()
                optimizer.step()
            return parameters_to_vector(net.parameters())

        assert torch.equal(run(), run())

    def test_float64(self):
        net = glorot_net().double()
        x, y = batch()
        loss = net(x.double(), y, TradesLoss(1.0))
        assert loss.dtype == torch.float64
        net.eval().certify(x.double())


class TestBadInput:
    @pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf])
    def test_epsilon(self, epsilon):
        with pytest.raises(ConfigError, match="epsilon is"):
            GloRoNet(classifier(), epsilon, SHAPE)
        with pytest.raises(ConfigError, match="epsilon is"):
            glorot_net().certify(batch()[0], epsilon)
        with pytest.raises(ConfigError, match="epsilon is"):
            glorot_net().epsilon = epsilon

    def test_power_iterations(self):
        with pytest.raises(ConfigError, match="power_iterations"):
            GloRoNet(classifier(), 0.1, SHAPE, power_iterations=0)

    @pytest.mark.parametrize(
        ("module", "error", "match"),
        [
            (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), ArchitectureError, "at least 2 classes"),
            (nn.Sequential(nn.Flatten(), nn.Linear(64, 3), MinMax(), nn.Linear(3, 2)), ArchitectureError, "64|3"),
            (nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), ArchitectureError, r"1 \(Linear\).*\(64,\)"),
            (nn.Sequential(nn.Conv2d(1, 2, 3)), ArchitectureError, "add a Flatten"),
            (nn.Sequential(nn.Flatten(), nn.Hardshrink(), nn.Linear(64, 3)), UnknownLayerError, "1 is a Hardshrink"),
            (
                nn.Sequential(nn.Flatten(), nn.Sequential(nn.Hardshrink()), nn.Linear(64, 3)),
                UnknownLayerError,
                "1.0 is",
            ),
            (nn.Sequential(), ArchitectureError, "no layers"),
        ],
    )
    def test_modules(self, module, error, match):
        with pytest.raises(error, match=match) as caught:
            GloRoNet(module, 0.1, SHAPE)
        assert "\n" not in str(caught.value)

    def test_softmax_at_the_end_is_warned_of_and_still_certified_soundly(self):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(dim=1))
        with pytest.warns(UserWarning, match="logits are expected"):
            net = GloRoNet(module, 0.1, SHAPE).eval()
        sigma = torch.linalg.matrix_norm(module[1].weight.double(), 2).item()
        assert net.lipschitz == pytest.approx(sigma / 2, rel=1e-2)

    def test_a_head_that_is_shared(self):
        shared = nn.Linear(64, 64)
        with pytest.raises(ArchitectureError, match=r"1.weight is also a parameter of the head 3"):
            GloRoNet(nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared), 0.1, SHAPE)
        tied = nn.Linear(64, 64)
        tied.weight = shared.weight
        with pytest.raises(ArchitectureError, match="is also a parameter of the head"):
            GloRoNet(nn.Sequential(nn.Flatten(), shared, nn.ReLU(), tied), 0.1, SHAPE)

    def test_a_layer_used_twice_counts_twice(self):
        shared = nn.Linear(64, 64)
        net = GloRoNet(nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, nn.Linear(64, 3)), 0.1, SHAPE).eval()
        sigma = torch.linalg.matrix_norm(shared.weight.double(), 2).item()
        assert net.lipschitz == pytest.approx(sigma**2, rel=1e-2)
        x, _ = batch()
        torch.testing.assert_close(net(x)[:, :3], net.module(x))

    @pytest.mark.parametrize(
        ("images", "match"),
        [
            (torch.zeros(2, *SHAPE, dtype=torch.uint8), "uint8.*to_float"),
            (torch.zeros(2, *SHAPE, dtype=torch.float64), "float64"),
            (torch.zeros(2, 1, 9, 9), "1x9x9 but the net takes 1x8x8"),
            (torch.zeros(*SHAPE), "no batch dimension"),
            (torch.zeros(0, *SHAPE), "empty"),
            (torch.full((2, *SHAPE), math.nan), "NaN or infinite"),
            (torch.full((2, *SHAPE), math.inf), "NaN or infinite"),
        ],
    )
    def test_images(self, images, match):
        with pytest.raises(DataError, match=match):
            glorot_net().certify(images)

    def test_pixels_outside_the_unit_interval_are_warned_of(self):
        with pytest.warns(UserWarning, match="outside"):
            glorot_net().certify(torch.full((2, *SHAPE), 1.5))

    def test_forward_refuses_other_shapes_and_half_of_a_pair(self):
        x, y = batch()
        with pytest.raises(DataError, match="net takes"):
            glorot_net()(torch.zeros(2, 1, 9, 9))
        with pytest.raises(ConfigError, match="go together"):
            glorot_net()(x, y)

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            (torch.zeros(32), "float32.*long"),
            (torch.full((32,), 5), r"\[0, 5\)"),
            (torch.full((32,), -1), r"\[0, 5\)"),
            (torch.zeros(31, dtype=torch.int64), "one label for each"),
        ],
    )
    def test_labels(self, labels, match):
        for criterion in (CrossEntropyLoss(), TradesLoss(1.0)):
            with pytest.raises(DataError, match=match):
                criterion(glorot_net()(batch()[0]), labels)

    @pytest.mark.parametrize(
        "make", [lambda: TradesLoss(-1), lambda: TradesLoss(1, "l2"), lambda: CrossEntropyLoss("a")]
    )
    def test_criteria(self, make):
        with pytest.raises(ConfigError):
            make()

    def test_hooks_are_refused_at_the_next_bound(self):
        net = glorot_net().eval()
        net.certify(batch()[0])
        net.module[0].register_forward_hook(lambda module, args, output: 2 * output)
        with pytest.raises(GloroFastError, match="hook"):
            net.certify(batch()[0])

    def test_a_module_that_is_switched_by_its_mode_is_bounded_as_it_is_evaluated(self, monkeypatch):
        monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

        class Louder(nn.Module):
            def forward(self, x):
                return x if self.training else 3 * x

        register_lipschitz_rule(Louder)(lambda module, shape: LipschitzConstant(1.0 if module.training else 3.0))
        net = GloRoNet(nn.Sequential(nn.Flatten(), Louder(), nn.Linear(64, 3)), 0.1, SHAPE)
        assert net.training
        x, _ = batch()
        certificate = net.certify(x)
        assert certificate.lipschitz == net.lipschitz == 3.0
        assert torch.equal(certificate.radius, net.eval().certify(x).radius)

    def test_training_follows_numbers_hooks_and_dtypes_that_change(self):
        module = Tempered()
        net = GloRoNet(module, 0.1, (4,)).train()
        x = torch.randn(8, 4)
        before = net(x)[:, :-1]
        module.gain = 3.0
        torch.testing.assert_close(net(x)[:, :-1], 3 * before)
        net.double()
        assert net(x.double()).dtype == torch.float64
        module.head.register_forward_hook(lambda layer, args, result: 2 * result)
        with pytest.raises(ArchitectureError, match="forward hook"):
            net(x.double())

    def test_large_images_in_half_precision(self):
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 3)).half()
        net = GloRoNet(module, 1e-6, (3, 224, 224)).eval()
        x = torch.full((2, 3, 224, 224), 0.6, dtype=torch.float16)
        certified = net.certify(x).certified
        assert certified.all()
        assert (net(x).argmax(dim=1) < 3).all()

    def test_layers_that_do_more_when_their_mode_changes(self, monkeypatch):
        monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

        class Merging(nn.Module):
            merged = False

            def forward(self, x):
                return x

            def train(self, mode=True):
                self.merged = not mode
                return super().train(mode)

        register_lipschitz_rule(Merging)(lambda module, shape: LipschitzConstant(1.0))
        net = GloRoNet(nn.Sequential(nn.Flatten(), Merging(), nn.Linear(64, 3)), 0.1, SHAPE)
        net.certify(batch()[0])
        assert net.module[1].training
        assert not net.module[1].merged

    def test_infinite_pixels_get_bottom_even_where_relu_hides_them(self):
        module = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 3))
        x = torch.zeros(2, *SHAPE)
        x[0, 0, 0, 0] = -math.inf
        net = GloRoNet(module, 0.0, SHAPE).eval()
        assert net(x).argmax(1)[0] == 3
        assert net(x).argmax(1)[1] != 3

    @pytest.mark.parametrize("padding", [(0, 0, 1, -1), (0, 0, 1, 0)])
    def test_a_padding_that_moves_the_images_of_a_batch(self, padding):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ZeroPad2d(padding))
        with pytest.raises(ArchitectureError, match=r"makes (3|B \+ 1) images|needs"):
            GloRoNet(module, 0.1, SHAPE)

    def test_a_layer_that_changes_the_number_of_images(self, monkeypatch):
        monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

        class Doubling(nn.Module):
            def forward(self, x):
                return torch.cat([x, x])

        register_lipschitz_rule(Doubling)(lambda module, shape: LipschitzConstant(2.0))
        with pytest.raises(ArchitectureError, match=r"1 \(Doubling\) makes 2\*B images of a batch of B"):
            GloRoNet(nn.Sequential(nn.Flatten(), Doubling(), nn.Linear(64, 3)), 0.1, SHAPE)

    def test_a_head_inside_the_memory_of_another_layer(self):
        memory = torch.randn(64 * 64 + 64)
        body, head = nn.Linear(64, 64), nn.Linear(64, 3)
        body.weight.data = memory[: 64 * 64].view(64, 64)
        head.weight.data = memory[32 : 32 + 3 * 64].view(3, 64)
        with pytest.raises(ArchitectureError, match="also a parameter of the head"):
            GloRoNet(nn.Sequential(nn.Flatten(), body, head), 0.1, SHAPE)

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda: GloRoNet(classifier(), "a", SHAPE), ConfigError),
            (lambda: GloRoNet(glorot_net(), 0.1, SHAPE), ConfigError),
            (lambda: GloRoNet(nn.Sequential(glorot_net()), 0.1, SHAPE), ConfigError),
            (lambda: GloRoNet(classifier(), None, SHAPE), ConfigError),
            (lambda: GloRoNet(classifier(), 0.1, 6), ConfigError),
            (lambda: GloRoNet(classifier(), 0.1, (8, 8)), ArchitectureError),
            (lambda: GloRoNet(classifier(), 0.1, SHAPE, 2.5), ConfigError),
            (lambda: glorot_net().certify([[0.0]]), DataError),
            (lambda: glorot_net()(torch.zeros(2, *SHAPE, dtype=torch.uint8)), DataError),
            (lambda: glorot_net()(torch.zeros(2, *SHAPE, dtype=torch.float64)), DataError),
            (lambda: glorot_net()(batch()[0], [0] * 32, CrossEntropyLoss()), DataError),
            (lambda: TradesLoss("a"), ConfigError),
        ],
    )
    def test_things_of_another_type(self, make, error):
        with pytest.raises(error) as caught:
            make()
        assert "\n" not in str(caught.value)

    def test_a_net_made_in_inference_mode_starts_iterates_that_can_be_trained(self):
        module = classifier()
        with torch.inference_mode():
            net = GloRoNet(module, 0.1, SHAPE)
        x, y = batch()
        net(x, y, CrossEntropyLoss()).backward()


@pytest.mark.parametrize(
    ("layers", "apart"),
    [
        (list, True),
        (lambda: [nn.BatchNorm1d(4)], False),
        (lambda: [nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))], False),
        (lambda: [CayleyLinear(4, 4)], False),
        (lambda: [nn.Unflatten(1, (4, 1, 1)), BROConv2d(4, 4, 1), nn.Flatten()], False),
    ],
)
def test_a_bound_that_reads_what_the_forward_pass_writes_comes_after_it(layers, apart):
    """On a second stream it would read a running variance of before, or half of it."""
    net = GloRoNet(nn.Sequential(nn.Linear(6, 4), *layers(), MinMax(), nn.Linear(4, 3)), 0.1, (6,)).train()
    assert net._bound_is_apart() is apart


ORTHOGONAL = {
    "dense": lambda: (nn.Flatten(), CayleyLinear(32, 32), MinMax()),
    "by frequencies": lambda: (CayleyConv2d(2, 2, 3), MinMax(), nn.Flatten()),
}


@pytest.mark.parametrize("criterion", [CrossEntropyLoss(), None])
@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_a_weight_that_is_made_of_parameters_is_made_once_a_step(kind, criterion, monkeypatch):
    torch.manual_seed(0)
    net = GloRoNet(nn.Sequential(*ORTHOGONAL[kind](), CayleyLinear(32, 8), nn.Linear(8, 3)), 0.1, (2, 4, 4)).train()
    x, y = torch.rand(5, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1])

    def loss(net):
        return net(x, y, criterion) if criterion else nn.functional.cross_entropy(net(x), y)

    twin = copy.deepcopy(net)
    once = loss(net)
    assert nodes_of(once).count("LinalgSolveExBackward0") == 2
    once.backward()
    monkeypatch.setattr(gloro_net, "weights_once", contextlib.nullcontext)
    twice = loss(twin)
    assert nodes_of(twice).count("LinalgSolveExBackward0") == 4
    twice.backward()
    torch.testing.assert_close(once, twice)
    for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    # Nothing is kept beyond the step.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5).add_(0.1)
    assert not torch.equal(loss(net), once)


def test_a_parametrization_that_moves_moves_once_a_step():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    net = GloRoNet(nn.Sequential(layer, MinMax(), nn.Linear(4, 3)), 0.1, (6,)).train()
    twin = copy.deepcopy(layer)
    x = torch.rand(5, 6)
    net(x)
    twin(x)
    assert torch.equal(layer.parametrizations.weight[0]._u, twin.parametrizations.weight[0]._u)
