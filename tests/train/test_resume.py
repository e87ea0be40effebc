import csv
import os
import shutil
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import EPOCHS, EVERYTHING, STEPS, SignalAt, tiny_data, tiny_recipe

from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.native import extension
from gloro_fast.train import Interrupted, Observer, Trainer, checkpoint, result
from gloro_fast.train.run_folder import RunFolder

ALL_EPOCHS = EPOCHS + EVERYTHING["warmup_epochs"]


def rows(folder):
    with open(RunFolder(folder).metrics, newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(out, expected):
    mine, its = load_file(RunFolder(out).model), load_file(RunFolder(expected).model)
    assert mine.keys() == its.keys()
    assert [name for name in its if not torch.equal(mine[name], its[name])] == []
    assert RunFolder(out).model.read_bytes() == RunFolder(expected).model.read_bytes()
    assert rows(out) == rows(expected)


def test_after_kill_9_in_mid_epoch(tmp_path, unbroken, run_script):
    process = run_script(tmp_path / "run", "--kill", 3, 2)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not RunFolder(tmp_path / "run").model.exists()
    assert len(rows(tmp_path / "run")) == 2

    trainer = Trainer.resume(tmp_path / "run", tiny_data())
    assert (trainer.state.epoch, trainer.state.batch) == (2, 0)
    trainer.fit()
    assert_same_run(tmp_path / "run", unbroken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (2, 3), (3, 2), (ALL_EPOCHS, STEPS)])
def test_after_a_signal_in_mid_epoch(tmp_path, unbroken, number, epoch, batch):
    trainer = Trainer(
        tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run", observers=[SignalAt(number, epoch, batch)]
    )
    with pytest.raises(Interrupted) as caught:
        trainer.fit()
    assert caught.value.signal == number
    assert isinstance(caught.value, KeyboardInterrupt)

    torch.rand(7)  # torch's global generator is elsewhere by then
    resumed = Trainer.resume(tmp_path / "run", tiny_data())
    assert (resumed.state.epoch + 1, resumed.state.batch) == (epoch, batch)
    resumed.fit()
    assert_same_run(tmp_path / "run", unbroken)


def test_interrupted_many_times(tmp_path, unbroken):
    class EveryStep(Observer):
        def on_step(self, step):
            os.kill(os.getpid(), signal.SIGTERM)

    trainer = Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run", observers=[EveryStep()])
    stops = 0
    while True:
        try:
            trainer.fit()
        except Interrupted:
            stops += 1
            trainer = Trainer.resume(tmp_path / "run", tiny_data(), observers=[EveryStep()])
        else:
            break
    assert stops == STEPS * ALL_EPOCHS
    assert_same_run(tmp_path / "run", unbroken)


def test_killed_between_the_last_epoch_and_the_result(tmp_path, unbroken):
    shutil.copytree(unbroken, tmp_path / "run")
    for file in (RunFolder(tmp_path / "run").result, RunFolder(tmp_path / "run").model):
        file.unlink()
    Trainer.resume(tmp_path / "run", tiny_data()).fit()
    assert_same_run(tmp_path / "run", unbroken)


def test_killed_before_the_configuration_was_written(tmp_path):
    class Fails(Observer):
        def on_start(self, run):
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[Fails()]).fit()
    RunFolder(tmp_path).config.unlink()
    Trainer.resume(tmp_path, tiny_data()).fit()
    assert RunFolder(tmp_path).config.is_file()


def test_interrupted_trainer_goes_on_in_the_same_process(tmp_path, unbroken):
    trainer = Trainer(
        tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run", observers=[SignalAt(signal.SIGTERM, 2, 2)]
    )
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.fit()
    assert_same_run(tmp_path / "run", unbroken)


def test_torchs_global_generator_belongs_to_the_run(tmp_path):
    """What is drawn from it in training is the same after an interruption, and the caller's draws go on unharmed."""

    class Draws(Observer):
        def __init__(self):
            self.values = []

        def on_step(self, step):
            self.values.append(torch.rand(()).item())

    whole, first, second = Draws(), Draws(), Draws()
    Trainer(tiny_recipe(), tiny_data(), tmp_path / "whole", observers=[whole]).fit()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(Interrupted):
        Trainer(tiny_recipe(), tiny_data(), tmp_path / "run", observers=[SignalAt(signal.SIGINT, 2, 1), first]).fit()
    assert torch.equal(torch.rand(3), expected)
    Trainer.resume(tmp_path / "run", tiny_data(), observers=[second]).fit()
    assert first.values + second.values == whole.values
    assert len(set(whole.values)) == len(whole.values)


class TestSignals:
    def test_previous_handlers_are_restored(self, tmp_path):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(Interrupted):
            Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[SignalAt(signal.SIGINT, 1, 1)]).fit()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_second_ctrl_c_aborts_at_once(self, tmp_path):
        class Twice(Observer):
            after = False

            def on_step(self, step):
                if step.epoch == 2:
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)
                    self.after = True

        observer = Twice()
        with pytest.raises(KeyboardInterrupt) as caught:
            Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[observer]).fit()
        assert not isinstance(caught.value, Interrupted)
        assert not observer.after
        assert Trainer.resume(tmp_path, tiny_data()).state.epoch == 1

    def test_ignored_signals_stay_ignored(self, tmp_path):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[SignalAt(signal.SIGINT, 1, 1)]).fit()
        finally:
            signal.signal(signal.SIGINT, before)

    def test_outside_the_main_thread(self, tmp_path):
        trainer = Trainer(tiny_recipe(), tiny_data(), tmp_path)
        thread = threading.Thread(target=trainer.fit)
        thread.start()
        thread.join()
        assert RunFolder(tmp_path).finished


class TestRefusals:
    def test_no_run(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"there is no run folder .*; check --out"):
            Trainer.resume(tmp_path / "nothing", tiny_data())
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            Trainer.resume(tmp_path, tiny_data())

    def test_finished_run(self, unbroken):
        with pytest.raises(ConfigError, match="is already finished"):
            Trainer.resume(unbroken, tiny_data())

    def test_other_data(self, stopped):
        with pytest.raises(CheckpointError, match="not the data"):
            Trainer.resume(stopped, tiny_data(seed=1))

    def test_edited_configuration(self, stopped):
        config = RunFolder(stopped).config
        config.write_text(config.read_text().replace("batch_size = 16", "batch_size = 8"))
        with pytest.raises(ConfigError, match=r"differs from what .* batch_size from 16 to 8; change"):
            Trainer.resume(stopped, tiny_data())

    def test_other_thread_count_is_only_a_warning(self, stopped):
        torch.set_num_threads(2)
        with pytest.warns(UserWarning, match="started with 1 CPU threads and goes on with 2"):
            Trainer.resume(stopped, tiny_data())

    def test_other_versions_and_kernels_are_a_warning(self, stopped, monkeypatch):
        now = result.versions()
        assert {"gloro_fast", "torch", "numpy", "python", "extension", "cpu"} == now.keys()
        monkeypatch.setattr(checkpoint, "versions", lambda: {**now, "torch": "9.9.0", "extension": "portable, gcc 1"})
        with pytest.warns(UserWarning, match="the checkpoint was written with ") as caught:
            Trainer.resume(stopped, tiny_data())
        (message,) = [str(warning.message) for warning in caught]
        assert f"torch {now['torch']} (now 9.9.0)" in message
        assert f"extension {now['extension']} (now portable, gcc 1)" in message
        assert "numpy" not in message

    def test_nothing_changed_nothing_warned(self, stopped, recwarn):
        Trainer.resume(stopped, tiny_data())
        assert [str(warning.message) for warning in recwarn if "checkpoint" in str(warning.message)] == []


class TestKernelsInUse:
    def test_not_loaded(self, monkeypatch):
        monkeypatch.setattr(extension, "available", lambda: False)
        assert result.versions()["extension"] == "not loaded"

    def test_loaded(self, monkeypatch):
        monkeypatch.setattr(extension, "available", lambda: True)
        monkeypatch.setattr(extension, "facts", lambda: {"simd": "avx2", "compiler": "gcc 12"})
        assert result.versions()["extension"] == "avx2, gcc 12"


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that was stopped in its second epoch."""
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        Trainer(tiny_recipe(), tiny_data(), out, observers=[SignalAt(signal.SIGTERM, 2, 2)]).fit()
    return out


def test_moments_of_muon_are_gone_on_with(tmp_path):
    recipe = tiny_recipe(optimizer="muon", weight_decay=0.4, learning_rate=0.02)
    Trainer(recipe, tiny_data(), tmp_path / "unbroken").fit()
    with pytest.raises(Interrupted):
        Trainer(recipe, tiny_data(), tmp_path / "run", observers=[SignalAt(signal.SIGTERM, 2, 1)]).fit()
    Trainer.resume(tmp_path / "run", tiny_data()).fit()
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")
