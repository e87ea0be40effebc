"""Checkpoints written on a thread while the next epoch trains."""

import threading
import time

import pytest
from test_resume import assert_same_run
from tiny_run import EVERYTHING, tiny_data, tiny_recipe

from gloro_fast.errors import CheckpointError
from gloro_fast.files import tensor_file
from gloro_fast.train import Observer, Trainer, checkpoint


@pytest.fixture
def beside(monkeypatch):
    """Write on a thread on the CPU too, slowly."""
    plain, threads = tensor_file.write, []

    def write(path, kind, tensors, document):
        if kind == "checkpoint":
            threads.append(threading.current_thread().name)
            time.sleep(0.05)
        plain(path, kind, tensors, document)

    monkeypatch.setattr(tensor_file, "write", write)
    original = checkpoint.Writer
    monkeypatch.setattr(checkpoint, "Writer", lambda folder, beside: original(folder, beside=True))
    return threads


class StopAt(Observer):
    """Ends the program, as a kill would, after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_step(self, step):
        if (step.epoch, step.batch) == (self.epoch + 1, 3):
            raise MemoryError


def test_the_run_is_the_same(tmp_path, unbroken, beside):
    Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run").fit()
    assert_same_run(tmp_path / "run", unbroken)
    main, *others = beside
    assert main == "MainThread"
    assert len(others) == 4
    assert all(name.startswith("checkpoint") for name in others)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_killed_run_goes_on_from_an_epoch_that_is_whole(tmp_path, unbroken, beside, epoch):
    trainer = Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run", observers=[StopAt(epoch)])
    with pytest.raises(MemoryError):
        trainer.fit()
    resumed = Trainer.resume(tmp_path / "run", tiny_data())
    assert resumed.state.epoch == epoch
    assert resumed.state.batch == 0
    resumed.fit()
    assert_same_run(tmp_path / "run", unbroken)


def test_what_the_disk_refuses_is_said_at_the_next_save(tmp_path, beside, monkeypatch):
    trainer = Trainer(tiny_recipe(), tiny_data(), tmp_path / "run")
    plain = tensor_file.write

    def refuse(path, kind, tensors, document):
        if kind == "checkpoint" and document["state"]["epoch"] == 1:
            raise CheckpointError("cannot write it")
        plain(path, kind, tensors, document)

    monkeypatch.setattr(tensor_file, "write", refuse)
    with pytest.raises(CheckpointError, match="cannot write it"):
        trainer.fit()
    assert Trainer.resume(tmp_path / "run", tiny_data()).state.epoch == 0
