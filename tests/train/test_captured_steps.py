"""A run whose steps are captured gives the bits of one whose steps are eager; what cannot be captured is named."""

import signal

import pytest
import torch
from fake_graph import FakeRecorder
from tiny_run import EVERYTHING, SignalAt, tiny_data, tiny_recipe

from gloro_fast.train import Interrupted, Trainer, build
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
    "liresnet": {"architecture": "LiResNet-2x8", "loss": "emma"},
}


@pytest.mark.parametrize("fields", RUNS.values(), ids=RUNS)
def test_captured_and_eager_runs_give_the_same_bits(tmp_path, recorder, fields):
    captured = Trainer(tiny_recipe(**{**LONG, **fields}), tiny_data(), tmp_path / "captured")
    captured.fit()
    eager = Trainer(tiny_recipe(**{**LONG, **fields}), tiny_data(), tmp_path / "eager", graphs=False)
    eager.fit()
    assert recorder.replays > len(captured.state.rows)
    check_same(captured, eager)
