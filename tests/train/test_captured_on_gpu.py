"""Captured steps on a real GPU: the bits of eager ones, and nothing that waits."""

import pytest
import torch
from test_captured_steps import LONG, RUNS, check_same
from test_graphed_step import Pair
from tiny_run import EVERYTHING, SignalAt, signal, tiny_data, tiny_recipe

from gloro_fast import GloRoNet, architectures
from gloro_fast.losses import TradesLoss
from gloro_fast.train import Interrupted, Trainer
from gloro_fast.train.determinism import deterministic

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(folder, fields, **settings):
    return Trainer(tiny_recipe(**{**LONG, **fields}), tiny_data(), folder, device="cuda", **settings)


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_captured_and_eager_runs_give_the_same_bits(tmp_path, fields):
    captured, eager = on_gpu(tmp_path / "captured", fields), on_gpu(tmp_path / "eager", fields, graphs=False)
    assert captured.fit().graphs == "captured"
    assert eager.fit().graphs == "switched off"
    check_same(captured, eager)


def test_noise_is_drawn_on_the_gpu_and_the_run_repeats(tmp_path):
    fields = {"loss": "standard", "noise": 0.25}
    trainers = [on_gpu(tmp_path / str(number), fields, graphs=number < 2) for number in range(3)]
    for trainer in trainers:
        trainer.fit()
    check_same(trainers[0], trainers[1])
    check_same(trainers[0], trainers[2])


@pytest.mark.parametrize("fields", [EVERYTHING, {"loss": "standard", "noise": 0.25}])
@pytest.mark.parametrize("at", [(1, 2), (3, 3), (5, 1)])
def test_a_captured_run_goes_on_bit_for_bit(tmp_path, fields, at):
    recipe = tiny_recipe(**{**LONG, **fields})
    observer = SignalAt(signal.SIGTERM, *at)
    stopped = Trainer(recipe, tiny_data(), tmp_path / "run", device="cuda", observers=[observer])
    with pytest.raises(Interrupted):
        stopped.fit()
    resumed = Trainer.resume(tmp_path / "run", tiny_data())
    resumed.fit()
    unbroken = on_gpu(tmp_path / "unbroken", fields)
    unbroken.fit()
    check_same(resumed, unbroken)


@pytest.mark.parametrize("graphs", [True, False])
def test_nothing_in_a_step_waits(tmp_path, graphs):
    trainer = on_gpu(tmp_path, {"augmentation": "none"}, graphs=graphs)
    trainer.net.train()
    images, labels = torch.rand(16, 1, 8, 8, device="cuda"), torch.randint(4, (16,), device="cuda")
    for _ in range(6):
        trainer.step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step(images, labels)
            trainer.net.epsilon = 0.2
            trainer.criterion.lam = 2.0
    finally:
        torch.cuda.set_sync_debug_mode("default")


class PairOnGpu(Pair):
    def __init__(self, **settings):
        self.recorder = None
        super().__init__(None, **settings)
        for net in self.nets:
            net.cuda()
        parameters = [list(net.parameters()) for net in self.nets]
        rate = torch.tensor(1e-2, device="cuda")
        self.optimizers = [torch.optim.Adam(each, rate.clone(), fused=True, capturable=True) for each in parameters]
        self.step = type(self.step)(self.nets[0], self.optimizers[0], self.criteria[0], **settings)

    def run(self, steps=1, size=8):
        for _ in range(steps):
            images = torch.rand(size, 1, 6, 6, generator=self.generator).cuda()
            labels = torch.randint(3, (size,), generator=self.generator).cuda()
            with deterministic(torch.device("cuda")):
                assert torch.equal(self.step(images, labels), self.by_hand(images, labels))
            states = [net.state_dict() for net in self.nets]
            assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.05}, {"accumulate": 3}])
def test_a_step_of_ones_own_loop(settings):
    pair = PairOnGpu(**settings)
    pair.run(15)
    assert pair.step.why_eager == ""
    for net in pair.nets:
        net.epsilon = 0.7
    for criterion in pair.criteria:
        criterion.lam = 3.0
    for optimizer in pair.optimizers:
        optimizer.param_groups[0]["lr"].fill_(0.05)
    pair.run(6)
    pair.run(15, size=5)
    pair.run(3)
    for net in pair.nets:
        net.eval().certify(torch.rand(4, 1, 6, 6, device="cuda"))
        net.train()
    pair.run(3)


def test_make_graphed_callables_takes_a_net():
    shape = (1, 28, 28)
    net = GloRoNet(architectures.build("2C2F", input_shape=shape, num_classes=10), 0.3, shape).cuda().train()
    images, labels = torch.rand(16, *shape, device="cuda"), torch.randint(10, (16,), device="cuda")
    graphed = torch.cuda.make_graphed_callables(net, (images,))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = TradesLoss(1.0)(graphed(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in net.parameters())
