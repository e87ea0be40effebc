"""A run whose steps are captured gives the bits of one whose steps are eager; what cannot be captured is named."""

import signal

import pytest
import torch
from fake_graph import FakeRecorder
from tiny_run import EVERYTHING, SignalAt, tiny_data, tiny_recipe

from gloro_fast.train import Interrupted, Trainer, build, objective
from gloro_fast.train import steps as steps_module
from gloro_fast.train import trainer as trainer_module

LONG = {"epochs": 5, "batch_size": 16}


@pytest.fixture
def recorder(monkeypatch):
    """Capture on the CPU."""
    fake = FakeRecorder()
    monkeypatch.setattr(build, "_TENSOR_RATE", ("cpu",))
    monkeypatch.setattr(trainer_module, "recorder_for", lambda device: fake)
    return fake


def bits(trainer):
    return {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}


def rows(trainer):
    return [{key: value for key, value in row.to_dict().items() if key != "seconds"} for row in trainer.state.rows]


def check_same(one, other):
    assert rows(one) == rows(other)
    mine, its = bits(one), bits(other)
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


RUNS = {
    "everything": EVERYTHING,
    "tfds": {"augmentation": "tfds", "lam": "0.5,2,3", "loss": "trades-kl"},
    "trades-ce": {"loss": "trades-ce", "activation": "relu"},
    "emma": {"loss": "emma"},
    "ce": {"loss": "ce", "epsilon_schedule": "log"},
    "lmt": {"loss": "lmt"},
    "standard": {"loss": "standard"},
    "bfloat16": {"precision": "bfloat16"},
    "muon": {"optimizer": "muon", "weight_decay": 0.4, "learning_rate": 0.02},
    "liresnet": {"architecture": "LiResNet-2x8", "loss": "emma"},
    "logit-annealing": {"architecture": "LiResNet-2x8-LLN", "loss": "logit-annealing"},
    "verified-error": {"loss": "verified-error", "lam": "0,0.9,3"},
}


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_captured_and_eager_runs_give_the_same_bits(tmp_path, recorder, fields):
    captured = Trainer(tiny_recipe(**{**LONG, **fields}), tiny_data(), tmp_path / "captured")
    captured.fit()
    eager = Trainer(tiny_recipe(**{**LONG, **fields}), tiny_data(), tmp_path / "eager", graphs=False)
    eager.fit()
    assert recorder.replays > len(captured.state.rows)
    check_same(captured, eager)


@pytest.mark.parametrize(
    "fields", [{"loss": "smoothadv", "epsilon_schedule": "0.1,0.5,3"}, {"loss": "macer", "lam": "1,4,2"}]
)
def test_losses_of_the_smoothed_classifier_are_captured(tmp_path, recorder, monkeypatch, fields):
    """With the same noise at every step: what a capture on the CPU draws, it draws once."""
    monkeypatch.setattr(objective, "gaussian_noise", lambda images, deviation, *_: images + deviation * wave(images))
    fields = {"noise": 0.2, "warmup_epochs": 1, "batch_size": 16, "epochs": 2, **fields, "augmentation": "default"}
    monkeypatch.setattr(steps_module, "gaussian_noise", objective.gaussian_noise)
    captured, eager = (
        Trainer(tiny_recipe(**fields), tiny_data(), tmp_path / name, graphs=name == "captured")
        for name in ("captured", "eager")
    )
    captured.fit()
    eager.fit()
    assert recorder.replays > len(captured.state.rows)
    check_same(captured, eager)


def wave(images):
    return torch.arange(images.numel(), dtype=images.dtype).cos().reshape(images.shape)


@pytest.mark.parametrize("at", [(1, 2), (2, 1), (2, 3), (4, 4), (5, 2)])
def test_a_captured_run_goes_on_bit_for_bit(tmp_path, recorder, at):
    fields = {**LONG, **EVERYTHING, "loss": "emma"}
    stopped = Trainer(tiny_recipe(**fields), tiny_data(), tmp_path / "run", observers=[SignalAt(signal.SIGTERM, *at)])
    with pytest.raises(Interrupted):
        stopped.fit()
    resumed = Trainer.resume(tmp_path / "run", tiny_data())
    resumed.fit()
    eager = Trainer(tiny_recipe(**fields), tiny_data(), tmp_path / "eager", graphs=False)
    eager.fit()
    check_same(resumed, eager)


def test_fit_called_again_after_a_signal_goes_on(tmp_path, recorder):
    recipe = tiny_recipe(**LONG, augmentation="light")
    trainer = Trainer(recipe, tiny_data(), tmp_path / "run", observers=[SignalAt(signal.SIGINT, 3, 2)])
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.fit()
    eager = Trainer(recipe, tiny_data(), tmp_path / "eager", graphs=False)
    eager.fit()
    check_same(trainer, eager)


@pytest.mark.parametrize("augmentation", ["none", "default"])
def test_steps_by_hand_are_captured_for_each_size_of_a_batch(tmp_path, recorder, augmentation):
    trainers = [
        Trainer(tiny_recipe(augmentation=augmentation), tiny_data(), tmp_path / str(graphs), graphs=graphs)
        for graphs in (True, False)
    ]
    images, labels = torch.rand(12, 16, 1, 8, 8), torch.randint(4, (12, 16))
    for number in range(12):
        size = 16 if number % 2 else 9
        for trainer in trainers:
            trainer.net.train()
            trainer.step(images[number, :size], labels[number, :size])
            if number == 8:
                trainer.net.epsilon = 0.25
                trainer.criterion.lam = 3.0
    captured, eager = trainers
    assert len(recorder.recordings) == 2
    assert recorder.replays
    assert torch.equal(captured.state.sums.values, eager.state.sums.values)
    check_same(captured, eager)


def test_a_net_that_moves_is_captured_anew(tmp_path, recorder):
    trainers = [Trainer(tiny_recipe(), tiny_data(), tmp_path / str(graphs), graphs=graphs) for graphs in (True, False)]
    images, labels = torch.rand(16, 16, 1, 8, 8), torch.randint(4, (16, 16))
    for number in range(16):
        for trainer in trainers:
            trainer.net.train()
            trainer.step(images[number], labels[number])
            if number == 7:
                weight = trainer.net.module[0].weight
                weight.data = weight.data.clone()
            if number == 11:
                trainer.net.module[0].bias = None
    check_same(*trainers)
    assert len(recorder.recordings) == 3


def wait(loss):
    return loss * (1.0 if loss.item() > -1 else 0.0)


def copy(loss):
    return loss * torch.tensor(1.0)


def look_for_zeros(loss):
    return loss + 0 * (loss == 0).nonzero().sum()


def index_by_mask(loss):
    return loss + 0 * loss[None][loss[None] > 1e9].sum()


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        (wait, "aten._local_scalar_dense"),
        (copy, "aten.lift_fresh"),
        (look_for_zeros, "aten.nonzero"),
        (index_by_mask, "aten.index.Tensor"),
    ],
)
def test_what_cannot_be_captured_is_named_and_trained_eagerly(tmp_path, recorder, monkeypatch, planted, name):
    plain = steps_module.robust_loss

    def spoiled(*arguments):
        loss, statistics = plain(*arguments)
        return planted(loss), statistics

    monkeypatch.setattr(steps_module, "robust_loss", spoiled)
    captured = Trainer(tiny_recipe(**LONG), tiny_data(), tmp_path / "captured")
    with pytest.warns(RuntimeWarning, match=rf"the training step cannot be captured .*\({name}"):
        result = captured.fit()
    assert name in result.graphs
    assert recorder.recordings == []
    eager = Trainer(tiny_recipe(**LONG), tiny_data(), tmp_path / "eager", graphs=False)
    assert eager.fit().graphs == "switched off"
    check_same(captured, eager)


def test_results_say_whether_steps_were_captured(tmp_path, recorder, monkeypatch):
    assert Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path / "captured").fit().graphs == "captured"
    monkeypatch.setattr(trainer_module, "recorder_for", lambda device: None)
    assert Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path / "eager").fit().graphs == "there are none on cpu"


def test_the_fake_graph_keeps_what_python_passed(recorder):
    """Were it to run Python again, all of the above would hold for a step that reads numbers from Python."""
    number, source, result = [2.0], torch.ones(3), torch.zeros(3)
    replay = recorder.record(lambda: result.copy_(source * number[0]))
    assert result.tolist() == [0.0] * 3
    number[0] = 5.0
    source.fill_(10.0)
    replay()
    assert result.tolist() == [20.0] * 3
