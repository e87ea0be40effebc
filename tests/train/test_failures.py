import errno
import json
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_resume import assert_same_run, rows
from tiny_run import EVERYTHING, SignalAt, tiny_data, tiny_recipe

from gloro_fast.errors import CheckpointError, DivergenceError
from gloro_fast.train import Interrupted, Observer, Trainer
from gloro_fast.train.run_folder import RunFolder


class FullDisk(Observer):
    """From an epoch on, whatever is written gets half of its bytes onto the disk."""

    def __init__(self, monkeypatch, epoch):
        self.monkeypatch, self.epoch = monkeypatch, epoch

    def on_step(self, step):
        if step.epoch == self.epoch:
            self.monkeypatch.setattr(Path, "write_bytes", self.refuse)

    @staticmethod
    def refuse(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_full_disk_leaves_the_checkpoint_before(tmp_path, unbroken, monkeypatch):
    with monkeypatch.context() as disk:
        trainer = Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run", observers=[FullDisk(disk, 3)])
        with pytest.raises(CheckpointError, match=r"cannot write .*checkpoint\.safetensors \(No space left") as caught:
            trainer.fit()
    assert len(str(caught.value).splitlines()) == 1
    assert list((tmp_path / "run").glob(".*")) == [tmp_path / "run" / ".lock"]
    resumed = Trainer.resume(tmp_path / "run", tiny_data())
    assert resumed.state.epoch == 2
    resumed.fit()
    assert_same_run(tmp_path / "run", unbroken)


class FileSizeLimit(Observer):
    """Lets no file grow beyond a size from an epoch on, which is as near to a full disk as a test comes."""

    def __init__(self, size, epoch):
        self.size, self.epoch = size, epoch
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step(self, step):
        if step.epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def close(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_limit_of_the_file_size(tmp_path, unbroken):
    """The kernel itself refuses to write more."""
    limit = FileSizeLimit(50_000, 2)
    with pytest.raises(CheckpointError, match=r"cannot write .*checkpoint\.safetensors \(File too large"):
        Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "run", observers=[limit]).fit()
    Trainer.resume(tmp_path / "run", tiny_data()).fit()
    assert_same_run(tmp_path / "run", unbroken)


class Poison(Observer):
    """Makes a weight NaN after a step."""

    def __init__(self, epoch, batch):
        self.at, self.trainer = (epoch, batch), None

    def on_step(self, step):
        if (step.epoch, step.batch) == self.at:
            with torch.no_grad():
                next(self.trainer.net.module.parameters()).fill_(torch.nan)


def poisoned(out, epoch, batch):
    poison = Poison(epoch, batch)
    poison.trainer = Trainer(tiny_recipe(), tiny_data(), out, observers=[poison])
    return poison.trainer


def test_nan_loss_stops_and_says_where(tmp_path):
    with pytest.raises(DivergenceError, match=r"NaN or infinite at step 3 of epoch 2; .* is kept in .*; start a new"):
        poisoned(tmp_path, 2, 2).fit()
    assert len(rows(tmp_path)) == 1
    resumed = Trainer.resume(tmp_path, tiny_data())
    assert resumed.state.epoch == 1
    assert all(tensor.isfinite().all() for tensor in resumed.net.state_dict().values())
    assert resumed.fit().epochs == 3


def test_nan_found_late_names_the_first_step(tmp_path, monkeypatch):
    """As on an accelerator, where the loss is looked at only now and then."""
    trainer = poisoned(tmp_path, 2, 1)
    monkeypatch.setattr("gloro_fast.train.trainer.steps_between_checks", lambda device: 1000)
    with pytest.raises(DivergenceError, match="step 2 of epoch 2"):
        trainer.fit()
    assert Trainer.resume(tmp_path, tiny_data()).state.epoch == 1


def test_nan_weights_after_the_last_step_reach_no_checkpoint(tmp_path):
    with pytest.raises(DivergenceError, match=r"module\.0\.weight became NaN or infinite by step 5 of epoch 2"):
        poisoned(tmp_path, 2, 5).fit()
    assert Trainer.resume(tmp_path, tiny_data()).state.epoch == 1


def test_nan_reaches_no_checkpoint_through_a_signal(tmp_path):
    poison = Poison(2, 2)
    poison.trainer = Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[poison, SignalAt(signal.SIGTERM, 2, 2)])
    with pytest.raises(DivergenceError):
        poison.trainer.fit()
    assert Trainer.resume(tmp_path, tiny_data()).state.epoch == 1


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Interrupted):
        Trainer(tiny_recipe(), tiny_data(), out, observers=[SignalAt(signal.SIGTERM, 2, 2)]).fit()
    return out


@pytest.fixture
def checkpoint(stopped_once, tmp_path):
    """The checkpoint of a stopped run, to be spoilt."""
    shutil.copytree(stopped_once, tmp_path / "run")
    return RunFolder(tmp_path / "run").checkpoint


def rewrite(path, change):
    """Change tensors and metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)


class TestDamage:
    def refused(self, checkpoint, match):
        content = checkpoint.read_bytes()
        with pytest.raises(CheckpointError, match=match) as caught:
            Trainer.resume(checkpoint.parent, tiny_data())
        assert len(str(caught.value).splitlines()) == 1
        assert checkpoint.read_bytes() == content

    @pytest.mark.parametrize("size", [0, 5, 100, 20_000, -1])
    def test_truncated(self, checkpoint, size):
        checkpoint.write_bytes(checkpoint.read_bytes()[:size])
        self.refused(checkpoint, r"checkpoint\.safetensors is truncated or damaged")

    def test_one_flipped_bit(self, checkpoint):
        content = bytearray(checkpoint.read_bytes())
        content[-1000] ^= 1
        checkpoint.write_bytes(content)
        self.refused(checkpoint, "do not match their digest")

    def test_another_file(self, checkpoint):
        checkpoint.write_bytes(b"\x80\x04 a pickle, say" * 100)
        self.refused(checkpoint, "truncated or damaged")
        save_file({"x": torch.zeros(3)}, checkpoint)
        self.refused(checkpoint, "tensors of another program")

    def test_other_format_version(self, checkpoint):
        rewrite(checkpoint, lambda tensors, metadata: metadata.update(format_version="7"))
        self.refused(checkpoint, "has format version 7, this gloro_fast reads 1; use the version that wrote it")

    def test_edited_document(self, checkpoint):
        def change(tensors, metadata):
            document = json.loads(metadata["document"])
            document["state"]["epoch"] = 0
            metadata["document"] = json.dumps(document)

        rewrite(checkpoint, change)
        self.refused(checkpoint, "do not match their digest")

    def test_other_architecture(self, checkpoint, monkeypatch):
        """A checkpoint whose tensors are those of another net than its configuration names."""
        monkeypatch.setattr("gloro_fast.files.tensor_file.digest", lambda tensors, document="": "")

        def change(tensors, metadata):
            tensors["net.module.2.weight"] = torch.zeros(32, 16, 3, 3)
            metadata["sha256"] = ""

        rewrite(checkpoint, change)
        self.refused(
            checkpoint,
            r"does not fit architecture 2C2F: module\.2\.weight is float32 \(32, 16, 3, 3\) instead of "
            r"float32 \(32, 16, 4, 4\)",
        )

    @pytest.mark.parametrize("name", ["sums", "generator.order", "optimizer.0.exp_avg"])
    def test_missing_or_misshapen_state(self, checkpoint, monkeypatch, name):
        monkeypatch.setattr("gloro_fast.files.tensor_file.digest", lambda tensors, document="": "")

        def change(tensors, metadata):
            tensors[name] = torch.zeros(2, 3)
            metadata["sha256"] = ""

        rewrite(checkpoint, change)
        self.refused(checkpoint, "does not fit architecture 2C2F")
