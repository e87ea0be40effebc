"""What only somebody hostile does around a captured step; it is obeyed or raises all the same."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from fake_graph import FakeRecorder
from test_graphed_step import SHAPE, Net, Pair
from tiny_run import tiny_data, tiny_recipe
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError, DataError, StaleBoundError
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.train import GraphedStep, Trainer, build, checkpoint, graphed_step
from gloro_fast.train import trainer as trainer_module
from gloro_fast.train.run_folder import RunFolder


@pytest.fixture
def recorder(monkeypatch):
    fake = FakeRecorder()
    monkeypatch.setattr(graphed_step, "recorder_for", lambda device: fake)
    return fake


@pytest.fixture
def pair(recorder):
    pair = Pair(recorder)
    pair.run(6)
    assert pair.recordings == 1
    return pair


def both(pair):
    return zip(pair.nets, pair.optimizers, pair.criteria, strict=True)


def batch(size=8):
    return torch.rand(size, *SHAPE), torch.randint(3, (size,))


def freeze(net, optimizer, criterion):
    net.module.convolution.requires_grad_(False)


def keep_the_head_alone(net, optimizer, criterion):
    optimizer.param_groups[0]["params"] = list(net.module.dense.parameters())


def drop_one_parameter(net, optimizer, criterion):
    del optimizer.param_groups[0]["params"][0]


def reverse_parameters(net, optimizer, criterion):
    optimizer.param_groups[0]["params"].reverse()


@pytest.mark.parametrize("change", [freeze, keep_the_head_alone, drop_one_parameter, reverse_parameters])
def test_parameters_that_are_no_longer_trained(pair, change):
    for each in both(pair):
        change(*each)
    pair.run(5)
    assert pair.recordings == 2
    for mine, its in zip(*(net.parameters() for net in pair.nets), strict=True):
        assert (mine.grad is None) == (its.grad is None)


def test_parameters_frozen_and_thawed(pair):
    freeze(pair.nets[0], None, None)
    freeze(pair.nets[1], None, None)
    pair.run(5)
    for net in pair.nets:
        net.module.convolution.requires_grad_(True)
    pair.run(5)
    assert pair.recordings == 3


def two_groups(parameters):
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": torch.tensor(1e-3)}]
    return torch.optim.Adam(groups, torch.tensor(1e-2), fused=True)


def test_a_group_that_is_removed(recorder):
    pair = Pair(recorder, optimizer=two_groups)
    pair.run(5)
    for net, optimizer, _ in both(pair):
        net.zero_grad()
        del optimizer.param_groups[0]
    pair.run(5)
    assert pair.recordings == 2


def test_a_group_without_parameters(recorder):
    def make(parameters):
        return torch.optim.Adam([{"params": []}, {"params": parameters}], torch.tensor(1e-2), fused=True)

    pair = Pair(recorder, optimizer=make)
    pair.run(5)
    assert pair.recordings == 1


def test_a_state_of_an_optimizer_that_was_not_capturable(pair):
    plain = torch.optim.Adam(copy.deepcopy(pair.nets[0]).parameters(), 1e-2, fused=True).state_dict()
    assert not plain["param_groups"][0]["capturable"]
    pair.optimizers[0].load_state_dict(plain)
    pair.step(*batch())
    group = pair.optimizers[0].param_groups[0]
    assert group["capturable"]
    assert isinstance(group["lr"], torch.Tensor)


class Counting(torch.optim.Optimizer):
    """Counts its steps in Python, as many do that are not torch's own."""

    def __init__(self, parameters, lr=0.1, in_group=False):
        self.in_group = in_group
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if self.in_group:
                group["step"] = group.get("step", 0) + 1
            for parameter in group["params"]:
                state = self.state[parameter]
                if not self.in_group:
                    state["step"] = state.get("step", 0) + 1
                count = group["step"] if self.in_group else state["step"]
                parameter.add_(parameter.grad * group["lr"], alpha=-1.0 / count)


@pytest.mark.parametrize("in_group", [False, True])
def test_an_optimizer_that_counts_in_python(recorder, in_group):
    pair = Pair(recorder, optimizer=lambda parameters: Counting(parameters, torch.tensor(0.1), in_group))
    with pytest.warns(RuntimeWarning, match="the optimizer's s"):
        pair.run(15)
    assert pair.recordings == 0
    assert "changed before every step: the optimizer's s" in pair.step.why_eager


def test_statistics_kept_over_steps(pair):
    kept = [[], []]
    for _ in range(4):
        pair.run(1)
        for list_, net in zip(kept, pair.nets, strict=True):
            list_.append(net.batch_statistics)
    for mine, its in zip(*kept, strict=True):
        assert torch.equal(mine.correct, its.correct)
        assert torch.equal(mine.verified, its.verified)
        assert torch.equal(mine.lipschitz, its.lipschitz)


def run_with_autocast(pair, steps, entered_once):
    """Steps by hand in a context of their own, as torch has it: within one, casts of weights are kept."""
    if not entered_once:
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16):
                pair.run(1)
        return
    drawn = [(torch.rand(8, *SHAPE), torch.randint(3, (8,))) for _ in range(steps)]
    with torch.autocast("cpu", torch.bfloat16):
        losses = [pair.step(*each) for each in drawn]
    for loss, each in zip(losses, drawn, strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss, pair.by_hand(*each))


@pytest.mark.parametrize("entered_once", [False, True])
def test_autocast_keeps_no_weights_for_a_graph(pair, entered_once):
    run_with_autocast(pair, 5, entered_once)
    run_with_autocast(pair, 5, entered_once)
    assert pair.recordings == 2


def test_an_evaluation_within_autocast_after_a_capture(pair):
    x = torch.rand(4, *SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(5):
            pair.step(*batch())
        inside = pair.nets[0].module(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inside, pair.nets[0].module(x))


def of_the_head(parameters):
    return torch.optim.SGD(parameters[2:], torch.tensor(0.1))


@pytest.mark.parametrize("forgotten", [lambda number: False, lambda number: number == 5, lambda number: True])
def test_gradients_of_parameters_that_the_optimizer_has_not(recorder, forgotten):
    pair = Pair(recorder, optimizer=of_the_head)
    for number in range(10):
        if forgotten(number):
            for net in pair.nets:
                net.zero_grad()
        pair.run(1)
        for mine, its in zip(*(net.parameters() for net in pair.nets), strict=True):
            torch.testing.assert_close(mine.grad, its.grad)
    assert recorder.replays


def test_where_no_gradient_is_wanted_a_step_raises(pair):
    for context in (torch.no_grad, torch.inference_mode):
        with context(), pytest.raises(RuntimeError):
            pair.step(*batch())
        pair.optimizers[0].zero_grad()


def test_anomalies_are_detected(pair):
    replays = pair.recorder.replays
    with torch.autograd.detect_anomaly(check_nan=True):
        pair.run(3)
    assert pair.recorder.replays == replays
    pair.run(2)
    assert pair.recorder.replays > replays


def test_precision_set_by_its_new_names(pair):
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        pair.run(4)
        assert pair.recordings == 2
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_convolutions_set_to_another_precision(pair):
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    try:
        pair.run(4)
        assert pair.recordings == 2
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


class Scaled(CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def forward(self, logits, labels):
        return self.reduce(self.rows(logits, labels)) * self.factor


def test_an_attribute_of_a_criterion_derived_from_ours(recorder):
    pair = Pair(recorder, Scaled())
    pair.run(5)
    for criterion in pair.criteria:
        criterion.factor = 5.0
    pair.run(5)
    assert pair.recordings == 2


def test_a_method_of_a_criterion_replaced(recorder):
    pair = Pair(recorder, CrossEntropyLoss())
    pair.run(5)
    for criterion in pair.criteria:
        criterion.reduce = lambda losses: losses.square().mean()
    pair.run(5)
    assert pair.recordings == 2


class Fragile(nn.Module):
    def __init__(self):
        super().__init__()
        self.fails = False

    def forward(self, logits, labels):
        if self.fails:
            raise RuntimeError("out of memory")
        return F.cross_entropy(logits, labels)


def test_a_step_that_failed_while_gradients_add_up_can_be_begun_anew(recorder):
    pair = Pair(recorder, Fragile(), accumulate=2)
    pair.run(3)
    images, labels = batch()
    for criterion, step in zip(pair.criteria, (pair.step, pair.by_hand), strict=True):
        criterion.fails = True
        with pytest.raises(RuntimeError, match="out of memory"):
            step(images, labels)
        criterion.fails = False
    pair.optimizers[0].zero_grad()
    pair.optimizers[1].zero_grad()
    pair.calls = 0
    pair.run(8)


def test_a_batch_that_is_refused_leaves_gradients_that_add_up(recorder):
    pair = Pair(recorder, accumulate=2)
    pair.run(3)
    with pytest.raises(DataError, match="images are"):
        pair.step(torch.rand(8, 2, 2, 2), torch.zeros(8, dtype=torch.int64))
    pair.run(5)


def test_gradients_dropped_while_they_add_up_begin_anew_after_the_refusal(recorder):
    pair = Pair(recorder, accumulate=2)
    pair.run(3)
    pair.optimizers[0].zero_grad()
    with pytest.raises(ConfigError, match="gradients were changed"):
        pair.step(*batch())
    pair.optimizers[0].zero_grad()
    pair.optimizers[1].zero_grad()
    pair.calls = 0
    pair.run(8)


def test_what_was_captured_is_gone_when_it_is_dropped(recorder):
    pair = Pair(recorder)
    pair.run(5)
    recording = weakref.ref(recorder.recordings.pop())
    gc.collect()
    gc.disable()
    try:
        for optimizer in pair.optimizers:
            optimizer.param_groups[0]["eps"] = 1e-3
        pair.run(1)
        assert recording() is None
        pair.run(4)
        recording = weakref.ref(recorder.recordings.pop())
        del pair
        assert recording() is None
    finally:
        gc.enable()


def backward_hook_on_all_modules():
    return nn.modules.module.register_module_full_backward_hook(lambda *arguments: None)


def hook_on_all_optimizers():
    return register_optimizer_step_post_hook(lambda *arguments: None)


@pytest.mark.parametrize("hook", [backward_hook_on_all_modules, hook_on_all_optimizers])
def test_with_hooks_on_everything_steps_are_done_as_they_come(pair, hook):
    replays = pair.recorder.replays
    handle = hook()
    try:
        pair.run(3)
    finally:
        handle.remove()
    assert pair.recorder.replays == replays
    pair.run(1)
    assert pair.recorder.replays == replays + 1


def test_a_hook_on_a_criterion(recorder):
    pair = Pair(recorder, Fragile())
    pair.run(5)
    seen = []
    replays = recorder.replays
    handle = pair.criteria[0].register_full_backward_hook(lambda *arguments: seen.append(1))
    pair.run(3)
    assert len(seen) == 3
    assert recorder.replays == replays
    handle.remove()


@pytest.mark.parametrize(
    "shape_or_type", [lambda loss: loss.view(1), lambda loss: loss.double(), lambda loss: loss.bfloat16()]
)
def test_the_loss_is_what_the_criterion_gives(recorder, shape_or_type):
    pair = Pair(recorder, lambda logits, labels: shape_or_type(F.cross_entropy(logits, labels)))
    for _ in range(6):
        images, labels = batch()
        mine, its = pair.step(images, labels), pair.by_hand(images, labels)
        assert (mine.shape, mine.dtype) == (its.shape, its.dtype)
        assert torch.equal(mine, its)
    assert pair.recordings == 1


def test_images_with_a_gradient(pair):
    for _ in range(3):
        images, labels = batch()
        mine, its = images.clone().requires_grad_(), images.clone().requires_grad_()
        assert torch.equal(pair.step(mine, labels), pair.by_hand(its, labels))
        assert torch.equal(mine.grad, its.grad)
    pair.run(3)


def test_probabilities_and_classes_in_turn(recorder):
    pair = Pair(recorder, CrossEntropyLoss())
    for _ in range(5):
        pair.run(1)
        images, labels = torch.rand(8, *SHAPE), torch.rand(8, 3).softmax(1)
        assert torch.equal(pair.step(images, labels), pair.by_hand(images, labels))
    assert pair.recordings == 2


def test_two_steps_on_one_net_take_turns(recorder):
    pair = Pair(recorder)
    other = GraphedStep(pair.nets[0], pair.optimizers[0], CrossEntropyLoss())
    images, labels = batch()
    for _ in range(6):
        pair.run(1)
        pair.optimizers[0].zero_grad()
        loss = other(images, labels)
        pair.optimizers[0].zero_grad()
        pair.optimizers[1].zero_grad()
        by_hand = pair.nets[1](images, labels, CrossEntropyLoss())
        by_hand.backward()
        pair.optimizers[1].step()
        assert torch.equal(loss, by_hand)
    assert pair.recordings == 2


def test_two_nets_with_one_optimizer(recorder):
    torch.manual_seed(3)
    nets = [GloRoNet(Net(), 0.1, SHAPE).train() for _ in range(2)]
    twins = copy.deepcopy(nets)
    optimizers = [
        torch.optim.Adam([p for net in each for p in net.parameters()], torch.tensor(1e-2), fused=True)
        for each in (nets, twins)
    ]
    steps = [GraphedStep(net, optimizers[0], CrossEntropyLoss()) for net in nets]
    for number in range(16):
        images, labels = batch()
        optimizers[0].zero_grad()
        loss = steps[number % 2](images, labels)
        optimizers[1].zero_grad()
        by_hand = twins[number % 2](images, labels, CrossEntropyLoss())
        by_hand.backward()
        optimizers[1].step()
        assert torch.equal(loss, by_hand)
    assert len(recorder.recordings) == 2


def test_a_copy_of_the_net_after_the_capture_is_its_own(pair):
    copied = copy.deepcopy(pair.nets[0])
    weights = [p.clone() for p in copied.parameters()]
    pair.run(2)
    assert all(map(torch.equal, weights, copied.parameters()))
    assert not torch.equal(next(pair.nets[0].parameters()), weights[0])


def test_weights_swapped_with_their_average(pair):
    averages = [[p.detach() * 0.5 for p in net.parameters()] for net in pair.nets]
    for _ in range(3):
        pair.run(3)
        for net, average in zip(pair.nets, averages, strict=True):
            for index, p in enumerate(net.parameters()):
                p.data, average[index] = average[index], p.data
        for net in pair.nets:
            net.eval()
            assert net.certify(torch.rand(2, *SHAPE)).radius.shape == (2,)
            net.train()


def test_a_criterion_that_reads_the_net(recorder):
    """Weight decay of one's own: the net's statistics change at every step, which is no reason to capture anew."""
    torch.manual_seed(0)
    net = GloRoNet(Net(), 0.1, SHAPE).train()

    def criterion(logits, labels):
        return F.cross_entropy(logits, labels) + 1e-3 * sum(p.square().sum() for p in net.parameters())

    step = GraphedStep(net, torch.optim.Adam(net.parameters(), torch.tensor(1e-2), fused=True), criterion)
    for _ in range(30):
        step(*batch())
    assert recorder.replays or step.why_eager


def test_what_changes_at_every_step_is_said(recorder):
    pair = Pair(recorder)

    def anneal():
        for number in range(40):
            for _, optimizer, _ in both(pair):
                optimizer.param_groups[0]["betas"] = (0.9 + number * 1e-3, 0.999)
            pair.run(1)

    with pytest.warns(RuntimeWarning, match="changed before every step") as warned:
        anneal()
    assert len(warned) == 1
    assert "changed before every step" in pair.step.why_eager


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(64, 3)

    def forward(self, x):
        return self.dense(self.norm(self.convolution(x)).relu().flatten(1))


def test_running_statistics(recorder):
    torch.manual_seed(0)
    nets = [GloRoNet(Noisy(), 0.1, SHAPE).train()]
    nets.append(copy.deepcopy(nets[0]))
    optimizers = [torch.optim.Adam(net.parameters(), torch.tensor(1e-2), fused=True) for net in nets]
    step = GraphedStep(nets[0], optimizers[0], CrossEntropyLoss())
    for number in range(8):
        images, labels = batch()
        loss = step(images, labels)
        optimizers[1].zero_grad()
        by_hand = nets[1](images, labels, CrossEntropyLoss())
        by_hand.backward()
        optimizers[1].step()
        assert torch.equal(loss, by_hand)
        assert nets[0].module.norm.num_batches_tracked == number + 1
        states = [net.state_dict() for net in nets]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert recorder.replays


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    fake = FakeRecorder()
    monkeypatch.setattr(build, "_TENSOR_RATE", ("cpu",))
    monkeypatch.setattr(trainer_module, "recorder_for", lambda device: fake)
    return [Trainer(tiny_recipe(), tiny_data(), tmp_path / str(graphs), graphs=graphs) for graphs in (True, False)]


def freeze_a_layer(trainer):
    trainer.net.module[0].requires_grad_(False)


def iterate_more(trainer):
    trainer.net.power_iterations = 9


def decay(trainer):
    trainer.state.optimizer.param_groups[0]["weight_decay"] = 0.5


def sum_up(trainer):
    trainer.criterion.reduction = "sum"


def ignore(trainer):
    trainer.criterion.ignore_index = 1


def weigh(trainer):
    trainer.criterion.weight = torch.tensor([1.0, 5.0, 1.0, 1.0])


def hook(trainer):
    next(trainer.net.parameters()).register_hook(lambda grad: grad * 0)


@pytest.mark.parametrize("change", [freeze_a_layer, iterate_more, decay, sum_up, ignore, weigh, hook])
def test_what_is_set_on_a_trainer_between_steps(trainers, change):
    images, labels = torch.rand(12, 16, 1, 8, 8), torch.randint(4, (12, 16))
    for number in range(12):
        for trainer in trainers:
            trainer.net.train()
            trainer.step(images[number], labels[number])
            if number == 6:
                change(trainer)
        states = [trainer.net.state_dict() for trainer in trainers]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items()), number


def test_a_captured_step_of_a_trainer_is_gone_when_it_is_dropped(trainers):
    captured = trainers[0]
    for _ in range(5):
        captured.net.train()
        captured.step(torch.rand(16, 1, 8, 8), torch.randint(4, (16,)))
    recording = weakref.ref(captured._steps._recorder.recordings.pop())
    gc.collect()
    gc.disable()
    try:
        captured._steps.forget()
        assert recording() is None
    finally:
        gc.enable()


def test_a_writer_that_was_waited_for_in_vain_is_waited_for_again(tmp_path):
    writer = checkpoint.Writer(RunFolder(tmp_path), beside=True)
    waits = []

    class Running:
        def exception(self):
            waits.append(1)
            if len(waits) == 1:
                raise KeyboardInterrupt

        def result(self):
            waits.append(2)

    writer._running = Running()
    with pytest.raises(KeyboardInterrupt), writer:
        writer.wait()
    assert waits == [1, 1, 2]


def test_a_frozen_bound_does_not_outlive_a_replay(pair):
    net = pair.nets[0]
    net.eval().freeze()
    x = torch.rand(2, *SHAPE)
    net.certify(x)
    net.train()
    replays = pair.recorder.replays
    pair.step(*batch())
    assert pair.recorder.replays == replays + 1
    net.eval()
    with pytest.raises(StaleBoundError):
        net.certify(x)


def test_a_method_replaced_twice_between_two_steps(recorder):
    """The second may lie in memory where the first was."""
    pair = Pair(recorder, CrossEntropyLoss())
    for factor in range(1, 8):
        for criterion in pair.criteria:
            criterion.reduce = lambda losses: losses.sum()
            criterion.reduce = lambda losses, factor=factor: losses.mean() * factor
        pair.run(4)


def test_gradients_of_the_step_before_are_gone_in_the_next(recorder):
    """Were they kept to be compared, a step would take their memory once more."""
    seen = []

    def criterion(logits, labels):
        gc.collect()
        seen.append([gradient() is None for gradient in before])
        return F.cross_entropy(logits, labels)

    pair = Pair(recorder, criterion)
    before = []
    for _ in range(2):
        images, labels = batch()
        pair.step(images, labels)
        before = [weakref.ref(p.grad) for p in pair.nets[0].parameters()]
    assert all(seen[1])
    assert len(seen[1]) == 4
