"""GloRoNet: training, the frozen bound and every way in which its weights may change, bad input."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, parametrize, vector_to_parameters

from gloro_fast import GloRoNet, architectures
from gloro_fast.errors import (
    ArchitectureError,
    ConfigError,
    DataError,
    FrozenError,
    GloroFastError,
    StaleBoundError,
    UnknownLayerError,
)
from gloro_fast.losses import CrossEntropyLoss, TradesLoss
from gloro_fast.nn import LinearMap, LipschitzConstant, MinMax, register_lipschitz_rule, rules
from gloro_fast.ops import Geometry

SHAPE = (1, 8, 8)


def classifier(classes=5):
    return architectures.build("2C2F", input_shape=SHAPE, num_classes=classes)


def glorot_net(epsilon=0.1):
    return GloRoNet(classifier(), epsilon, SHAPE)


def batch(rows=32):
    return torch.rand(rows, *SHAPE), torch.randint(5, (rows,))


def exact_lipschitz(net):
    """The product of the exact spectral norms of all layers before the head, from unrolled matrices."""
    product = 1.0
    for linear in net._plan.linear_maps():
        size = math.prod(linear.geometry.input_shape)
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *linear.geometry.input_shape)
        rows = [linear.geometry.apply(linear.weight.detach().double(), e).flatten() for e in basis]
        product *= torch.linalg.matrix_norm(torch.stack(rows), 2).item()
    return product


class TestTraining:
    def test_logits_are_those_of_the_module_and_bottom(self):
        net = glorot_net()
        x, _ = batch()
        logits = net(x)
        assert logits.shape == (32, 6)
        assert torch.equal(logits[:, :5], net.module(x))

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
        x, y = batch()
        loss = net(x, y, lambda logits, labels: logits.sum() + 0 * labels.sum())
        torch.testing.assert_close(loss, copy.deepcopy(net)(x).sum(), rtol=1e-2, atol=1e-2)
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

    def test_same_seed_same_bits(self):
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


class Scaled(nn.Module):
    """A layer whose constant is a plain attribute."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, x):
        return self.scale * x + self.offset


class TimesFactor(nn.Module):
    """A parametrization with a factor that is neither parameter nor buffer."""

    factor = 1.0

    def forward(self, weight):
        return self.factor * weight


def flat_net(*layers):
    return GloRoNet(nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 3)), 0.1, SHAPE).eval().freeze()


class TestWhatTheBitsOfParametersDoNotTell:
    @pytest.fixture(autouse=True)
    def _rule(self, monkeypatch):
        monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
        register_lipschitz_rule(Scaled)(lambda module, shape: LipschitzConstant(module.scale, "upper bound"))

    def stale(self, net):
        with pytest.raises((StaleBoundError, ArchitectureError)) as caught:
            net.certify(batch()[0])
        assert "\n" not in str(caught.value)

    def test_an_attribute_that_a_rule_reads(self):
        net = flat_net(Scaled(1.0))
        net.module[1].scale = 1000.0
        self.stale(net)

    def test_a_buffer(self):
        net = flat_net(Scaled(1.0))
        net.module[1].offset += 1
        self.stale(net)

    def test_an_attribute_of_a_parametrization(self):
        linear = nn.Linear(64, 64)
        parametrize.register_parametrization(linear, "weight", TimesFactor())
        net = flat_net(linear)
        linear.parametrizations.weight[0].factor = 100.0
        self.stale(net)

    def test_a_weight_that_is_no_parameter(self):
        linear = nn.Linear(64, 64)
        weight = linear.weight.detach().clone()
        del linear.weight
        linear.weight = weight
        net = flat_net(linear)
        weight *= 100
        self.stale(net)

    def test_a_parameter_that_is_shared_with_another_layer_now(self):
        a, b, c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        c.weight = a.weight
        net = flat_net(a, b, c)
        c.weight = b.weight
        self.stale(net)

    def test_another_method_of_the_layer(self):
        net = GloRoNet(classifier(), 0.1, SHAPE).eval().freeze()
        net.module[0]._conv_forward = lambda x, weight, bias: 100 * x
        self.stale(net)

    def test_hooks(self):
        net = flat_net(nn.Linear(64, 64))
        for module in (net.module, net.module[1]):
            hook = module.register_forward_hook(lambda module, args, output: 2 * output)
            self.stale(net)
            hook.remove()
        hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: 2 * output)
        try:
            self.stale(net)
        finally:
            hook.remove()
        net.certify(batch()[0])

    def test_a_tensor_subclass(self):
        class Louder(torch.Tensor):
            pass

        linear = nn.Linear(64, 64)
        linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Louder))
        with pytest.raises(ArchitectureError, match="Louder"):
            flat_net(linear)

    def test_a_parametrized_class_that_is_none(self):
        class Fake(nn.Linear):
            def forward(self, x):
                return 100 * super().forward(x)

        fake = Fake(64, 64)
        fake.parametrizations = nn.ModuleDict({"weight": nn.Identity()})
        with pytest.raises(UnknownLayerError, match="Fake"):
            flat_net(fake)

    def test_autocast_around_freeze_changes_nothing(self):
        linear = parametrizations.orthogonal(nn.Linear(64, 64), orthogonal_map="cayley")
        net = flat_net(linear)
        with torch.autocast("cpu", torch.bfloat16):
            inside = net.freeze().lipschitz
        assert net.freeze().lipschitz == inside

    def test_the_input_shape_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            glorot_net().input_shape = (1, 9, 9)

    def test_a_subclass_with_a_rule_of_its_own_is_executed_as_it_is(self):
        class Weakened(nn.Linear):
            def forward(self, x):
                return nn.functional.linear(x, 0.01 * self.weight, self.bias)

        register_lipschitz_rule(Weakened)(lambda module, shape: LinearMap(0.01 * module.weight, Geometry(shape)))
        net = flat_net(Weakened(64, 64), MinMax())
        x, _ = batch()
        assert torch.equal(net(x)[:, :3], net.module(x))

    def test_training_sees_a_constant_as_it_is_now(self):
        net = flat_net(Scaled(1.0), nn.Linear(64, 64)).unfreeze().train()
        x, y = batch()
        net(x, y % 3, CrossEntropyLoss())
        before = net.batch_statistics.lipschitz
        net.module[1].scale = 100.0
        net(x, y % 3, CrossEntropyLoss())
        assert net.batch_statistics.lipschitz > 90 * before

    @pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
    def test_constants_that_are_none(self, value):
        with pytest.raises(ConfigError, match="Lipschitz constant"):
            flat_net(Scaled(value))

    def test_a_constant_is_a_float64(self):
        value = LipschitzConstant(torch.tensor(0.1)).value
        assert type(value) is float
        assert value == float(torch.tensor(0.1))
        with pytest.raises(ConfigError, match="'upper bound'"):
            LipschitzConstant(1.0, "upper_bound")

    def test_a_rule_that_gives_nothing(self):
        register_lipschitz_rule(Scaled)(lambda module, shape: None)
        with pytest.raises(ConfigError, match="gave None"):
            flat_net(Scaled(1.0))


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
        assert torch.equal(net(x)[:, :3], net.module(x))

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
        monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

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

    def test_layers_that_do_more_when_their_mode_changes(self, monkeypatch):
        monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

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
        with pytest.raises(ArchitectureError, match="needs"):
            GloRoNet(module, 0.1, SHAPE)

    def test_a_layer_that_changes_the_number_of_images(self, monkeypatch):
        monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

        class Doubling(nn.Module):
            def forward(self, x):
                return torch.cat([x, x])

        register_lipschitz_rule(Doubling)(lambda module, shape: LipschitzConstant(2.0))
        with pytest.raises(ArchitectureError, match="4 images of 2"):
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
