"""What people do around a step of their own loop is obeyed by a captured one, or raises; it is never ignored."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fake_graph import FakeRecorder
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, TradesLoss
from gloro_fast.nn import MinMax
from gloro_fast.train import GraphedStep, graphed_step

SHAPE = (1, 6, 6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.activation = MinMax()
        self.dense = nn.Linear(64, 3)
        self.scale = 1.0

    def forward(self, x):
        return self.dense(self.activation(self.convolution(x)).flatten(1)) * self.scale


class Pair:
    """The same training by captured steps and by hand."""

    def __init__(self, recorder, criterion=None, optimizer=None, **settings):
        torch.manual_seed(0)
        net = GloRoNet(Net(), 0.1, SHAPE).train()
        self.recorder = recorder
        self.nets = [net, copy.deepcopy(net)]
        make = optimizer or (lambda parameters: torch.optim.Adam(parameters, torch.tensor(1e-2), fused=True))
        self.optimizers = [make(list(each.parameters())) for each in self.nets]
        self.criteria = [copy.deepcopy(criterion or TradesLoss(1.5)) for _ in self.nets]
        self.settings = settings
        self.step = GraphedStep(self.nets[0], self.optimizers[0], self.criteria[0], **settings)
        self.generator = torch.Generator().manual_seed(1)
        self.calls = 0

    def run(self, steps=1, size=8):
        """Do steps, and compare losses and weights."""
        for _ in range(steps):
            images = torch.rand(size, *SHAPE, generator=self.generator)
            labels = torch.randint(3, (size,), generator=self.generator)
            loss = self.step(images, labels)
            assert not loss.requires_grad
            assert torch.equal(loss, self.by_hand(images, labels))
            states = [net.state_dict() for net in self.nets]
            assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    def by_hand(self, images, labels):
        net, optimizer, criterion = self.nets[1], self.optimizers[1], self.criteria[1]
        every = self.settings.get("accumulate", 1)
        if self.calls % every == 0:
            optimizer.zero_grad()
        loss = net(images, labels, criterion)
        (loss / every if every > 1 else loss).backward()
        self.calls += 1
        if self.calls % every == 0:
            if "max_grad_norm" in self.settings:
                nn.utils.clip_grad_norm_(net.parameters(), self.settings["max_grad_norm"])
            optimizer.step()
        return loss.detach()

    @property
    def recordings(self):
        return len(self.recorder.recordings)


@pytest.fixture
def recorder(monkeypatch):
    """Capture on the CPU, where torch lets only fused optimizers keep their step count on the device."""
    fake = FakeRecorder()
    monkeypatch.setattr(graphed_step, "recorder_for", lambda device: fake)
    return fake


@pytest.fixture
def pair(recorder):
    """A pair whose step is captured and was replayed."""
    pair = Pair(recorder)
    pair.run(6)
    assert pair.recordings == 1
    assert recorder.replays == 3
    return pair


def test_the_loss_of_a_step_stays_when_the_next_is_done(pair):
    images, labels = torch.rand(8, *SHAPE), torch.randint(3, (8,))
    first = pair.step(images, labels)
    kept = first.item()
    assert pair.step(images, labels).item() != kept
    assert first.item() == kept


@pytest.mark.parametrize(
    "criterion",
    [
        CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=1),
        TradesLoss(0.7, "ce", "sum"),
        EmmaLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda logits, labels: F.cross_entropy(logits, labels),
    ],
)
def test_criteria(recorder, criterion):
    pair = Pair(recorder, criterion)
    pair.run(6)
    assert pair.recordings == 1


def test_epsilon_set_after_the_capture(pair):
    for net in pair.nets:
        net.epsilon = 0.7
    pair.run(2)
    assert pair.recordings == 1


def test_lambda_set_after_the_capture(pair):
    for criterion in pair.criteria:
        criterion.lam = 4.0
    pair.run(2)
    assert pair.recordings == 1


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_learning_rate_set_after_the_capture(pair, kind):
    for optimizer in pair.optimizers:
        # By hand the rate is a tensor throughout, since that of a float differs in its last bits.
        optimizer.param_groups[0]["lr"] = torch.tensor(0.3) if optimizer is pair.optimizers[1] else kind(0.3)
    pair.run(3)
    assert pair.recordings == 1
    assert pair.optimizers[0].param_groups[0]["lr"].item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 / (1 + epoch)),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5),
    ],
)
def test_a_scheduler(recorder, make):
    pair = Pair(recorder)
    schedulers = [make(optimizer) for optimizer in pair.optimizers]
    rates = set()
    for _ in range(4):
        pair.run(3)
        for scheduler in schedulers:
            scheduler.step()
        rates.add(float(pair.optimizers[0].param_groups[0]["lr"]))
    assert len(rates) == 4
    assert pair.recordings == 1


def test_another_hyperparameter_is_captured_anew(pair):
    for optimizer in pair.optimizers:
        optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    pair.run(4)
    assert pair.recordings == 2


def test_weights_loaded_between_steps(pair):
    saved = copy.deepcopy(pair.nets[1].state_dict())
    pair.run(2)
    for net in pair.nets:
        net.load_state_dict(saved)
    pair.run(3)
    assert pair.recordings == 1


def test_an_optimizer_loaded_between_steps(pair):
    saved = copy.deepcopy(pair.optimizers[1].state_dict())
    pair.run(2)
    for optimizer in pair.optimizers:
        optimizer.load_state_dict(copy.deepcopy(saved))
    pair.run(4)
    assert pair.recordings == 2


def test_gradients_are_clipped(recorder):
    pair = Pair(recorder, max_grad_norm=0.05)
    pair.run(6)
    assert pair.recordings == 1
    norm = torch.stack([p.grad.norm() for p in pair.nets[0].parameters()]).norm()
    assert norm == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_gradients_are_accumulated(recorder, accumulate):
    pair = Pair(recorder, accumulate=accumulate)
    pair.run(6 * accumulate)
    assert pair.recordings == accumulate
    for optimizer in pair.optimizers:
        optimizer.zero_grad()
    pair.run(6 * accumulate, size=5)


def test_gradients_of_a_step_are_there_after_it(pair):
    for mine, its in zip(*(net.parameters() for net in pair.nets), strict=True):
        assert torch.equal(mine.grad, its.grad)


def test_zero_grad_outside(pair):
    for optimizer in pair.optimizers:
        optimizer.zero_grad()
    pair.run(2)
    test_gradients_of_a_step_are_there_after_it(pair)


def accumulate_outside(pair):
    pair.nets[0](torch.rand(4, *SHAPE)).sum().backward()


def clip_outside(pair):
    nn.utils.clip_grad_norm_(pair.nets[0].parameters(), 1e-3)


@pytest.mark.parametrize("change", [accumulate_outside, clip_outside])
def test_gradients_changed_outside_are_refused(pair, change):
    change(pair)
    with pytest.raises(ConfigError, match=r"gradients were changed since the last step.*accumulate= of GraphedStep"):
        pair.step(torch.rand(8, *SHAPE), torch.randint(3, (8,)))
    pair.optimizers[0].zero_grad()
    pair.step(torch.rand(8, *SHAPE), torch.randint(3, (8,)))


def test_gradients_dropped_while_they_add_up_are_refused(recorder):
    pair = Pair(recorder, accumulate=2)
    pair.run(3)
    pair.optimizers[0].zero_grad()
    with pytest.raises(ConfigError, match="gradients were changed"):
        pair.step(torch.rand(8, *SHAPE), torch.randint(3, (8,)))


def test_batches_of_several_sizes(recorder):
    pair = Pair(recorder)
    for _ in range(5):
        for size in (8, 3, 5):
            pair.run(1, size)
    assert pair.recordings == 3


def test_many_sizes_are_learned_from_eagerly(recorder, monkeypatch):
    monkeypatch.setattr(graphed_step, "_MOST_SHAPES", 2)
    pair = Pair(recorder)
    pair.run(2, 8)
    pair.run(1, 3)
    with pytest.warns(RuntimeWarning, match=r"holds 2 shapes of batches.*\(5, 1, 6, 6\)"):
        pair.run(1, 5)
    for _ in range(4):
        for size in (8, 3, 5, 6):
            pair.run(1, size)
    assert pair.recordings == 2


def test_an_evaluation_between_two_steps(pair):
    x = torch.rand(5, *SHAPE)
    certificates = []
    for net in pair.nets:
        net.eval()
        certificates.append(net.certify(x))
        net.train()
    assert torch.equal(certificates[0].radius, certificates[1].radius)
    pair.run(2)
    for number, net in enumerate(pair.nets):
        net.eval()
        # Replays change weights behind the back of torch: the bound is of those that are there now.
        assert not torch.equal(net.certify(x).radius, certificates[number].radius)
        certificates[number] = net.certify(x)
        net.train()
    assert torch.equal(certificates[0].radius, certificates[1].radius)
    pair.run(1)
    assert pair.recordings == 1


def test_a_step_in_evaluation_is_done_as_it_comes(pair):
    for net in pair.nets:
        net.eval()
    pair.run(3)
    for net in pair.nets:
        net.train()
    pair.run(2)


@pytest.mark.parametrize("move", [lambda net: net.double(), lambda net: net.to(memory_format=torch.channels_last)])
def test_a_net_that_is_moved(recorder, move):
    pair = Pair(recorder, optimizer=lambda parameters: torch.optim.SGD(parameters, torch.tensor(0.1)))
    pair.run(5)
    images = torch.rand(8, *SHAPE)
    for net in pair.nets:
        move(net)
    dtype = next(pair.nets[0].parameters()).dtype
    labels = torch.randint(3, (8,))
    for _ in range(5):
        loss = pair.step(images.to(dtype), labels)
        assert torch.equal(loss, pair.by_hand(images.to(dtype), labels).to(loss.dtype))
    assert pair.recordings == 2


def change_attribute(net):
    net.module.scale = 0.25


def replace_layer(net):
    net.module.activation = nn.ReLU()


def freeze_layer(net):
    net.module.convolution.eval()


@pytest.mark.parametrize("change", [change_attribute, replace_layer, freeze_layer])
def test_a_module_that_changes_is_captured_anew(pair, change):
    for net in pair.nets:
        change(net)
    pair.run(5)
    assert pair.recordings == 2


class Tempered(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = 1.0

    def forward(self, logits, labels):
        return F.cross_entropy(logits / self.temperature, labels)


def test_an_attribute_of_a_criterion(recorder):
    pair = Pair(recorder, Tempered())
    pair.run(5)
    for criterion in pair.criteria:
        criterion.temperature = 3.0
    pair.run(5)
    assert pair.recordings == 2


def test_a_closure_of_a_criterion(recorder):
    temperature = 1.0

    def criterion(logits, labels):
        return F.cross_entropy(logits / temperature, labels)

    pair = Pair(recorder, criterion)
    pair.run(5)
    temperature = 3.0
    pair.run(5)
    assert pair.recordings == 2


def test_autocast_around_a_step(pair):
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            pair.run(1)
    pair.run(5)
    assert pair.recordings == 3


@pytest.mark.parametrize(
    "hook",
    [
        lambda pair, net, optimizer: net.module.dense.weight.register_hook(lambda grad: grad * 0.5),
        lambda pair, net, optimizer: net.module.dense.register_full_backward_hook(lambda *arguments: None),
        lambda pair, net, optimizer: optimizer.register_step_post_hook(lambda *arguments: None),
    ],
)
def test_with_hooks_steps_are_done_as_they_come(pair, hook):
    handles = [hook(pair, net, optimizer) for net, optimizer in zip(pair.nets, pair.optimizers, strict=True)]
    replays = pair.recorder.replays
    pair.run(3)
    assert pair.recorder.replays == replays
    for handle in handles:
        handle.remove()
    pair.run(3)
    assert pair.recorder.replays > replays


def test_a_group_of_parameters_that_comes_later(recorder):
    def make(parameters):
        return torch.optim.Adam(parameters[:2], torch.tensor(1e-2), fused=True)

    pair = Pair(recorder, optimizer=make)
    pair.run(5)
    for net, optimizer in zip(pair.nets, pair.optimizers, strict=True):
        net.zero_grad()
        optimizer.add_param_group({"params": list(net.module.dense.parameters()), "lr": torch.tensor(1e-3)})
    pair.run(5)
    assert pair.recordings == 2


def test_what_cannot_be_captured_is_named(recorder):
    def criterion(logits, labels):
        loss = F.cross_entropy(logits, labels)
        return loss if loss.item() < 1e9 else loss * 0

    pair = Pair(recorder, criterion)
    with pytest.warns(RuntimeWarning, match=r"cannot be captured .*\(aten._local_scalar_dense.default: "):
        pair.run(5)
    assert "_local_scalar_dense" in pair.step.why_eager
    pair.run(3)


def test_without_graphs_steps_are_done_as_they_come():
    pair = Pair(FakeRecorder())
    assert pair.step.why_eager == "there are no CUDA graphs on cpu"
    pair.run(5)
    assert pair.recordings == 0
    assert isinstance(pair.optimizers[0].param_groups[0]["lr"], torch.Tensor)


def test_batches_are_checked_at_every_replay(pair):
    with pytest.raises(DataError, match="labels must lie in"):
        pair.step(torch.rand(8, *SHAPE), torch.full((8,), 3))
    with pytest.raises(DataError, match="the batch is empty"):
        pair.step(torch.rand(0, *SHAPE), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="images are"):
        pair.step(torch.rand(8, 1, 5, 5), torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda net: (net.module, torch.optim.SGD(net.parameters(), 0.1)), "the net is a Net; give a GloRoNet"),
        (lambda net: (net, torch.optim.LBFGS(net.parameters())), "LBFGS calls for the loss by itself"),
    ],
)
def test_what_has_no_step_is_refused(arguments, message):
    net = GloRoNet(Net(), 0.1, SHAPE)
    with pytest.raises(ConfigError, match=message):
        GraphedStep(*arguments(net), CrossEntropyLoss())
    for norm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="max_grad_norm is"):
            GraphedStep(net, torch.optim.SGD(net.parameters(), 0.1), CrossEntropyLoss(), max_grad_norm=norm)
    with pytest.raises(ConfigError, match="accumulate is 0"):
        GraphedStep(net, torch.optim.SGD(net.parameters(), 0.1), CrossEntropyLoss(), accumulate=0)
