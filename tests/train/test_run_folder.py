import shutil
import subprocess
import sys

import pytest
import torch
from tiny_run import tiny_data, tiny_recipe

from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.files import tensor_file
from gloro_fast.files.tensor_file import load_into
from gloro_fast.train import Trainer
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.trained_net import load_net


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    trainer = Trainer(tiny_recipe(epochs=1, epsilon=0.1, epsilon_train=0.4), tiny_data(), out)
    trainer.fit()
    return out, trainer.net


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to be spoilt."""
    shutil.copytree(finished[0], tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_names():
    folder = RunFolder("runs/x")
    names = [folder.model, folder.config, folder.metrics, folder.curves, folder.result, folder.checkpoint]
    assert [path.name for path in names] == [
        "model.safetensors",
        "config.toml",
        "metrics.csv",
        "curves.png",
        "result.json",
        "checkpoint.safetensors",
    ]
    assert {path.parent for path in names} == {folder.path}


def test_a_finished_run_holds_every_file(run):
    assert all(path.is_file() for path in (run.model, run.config, run.metrics, run.curves, run.result))


def test_load_net_gives_the_trained_net(finished):
    out, trained = finished
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    net, config = load_net(out)
    assert torch.equal(torch.rand(1), expected)
    assert not net.training
    assert net.epsilon == config.recipe.epsilon == 0.1
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(net.certify(x).radius, trained.certify(x).radius)


def refused(path, match, error=CheckpointError):
    with pytest.raises(error, match=match) as caught:
        load_net(path)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_folder(tmp_path):
    refused(tmp_path / "no", "there is no run folder")
    refused(tmp_path, "holds no finished run")


def test_unfinished_run(run):
    run.result.unlink()
    refused(run.path, "is not finished; finish it with: .*--resume")


def test_damaged_model(run):
    content = run.model.read_bytes()
    run.model.write_bytes(content[:-10])
    refused(run.path, r"model\.safetensors is truncated or damaged")
    run.model.write_bytes(content[:-10] + bytes(10))
    refused(run.path, r"model\.safetensors is damaged")
    run.model.unlink()
    refused(run.path, "there is no file")
    shutil.copy(run.checkpoint, run.model)
    refused(run.path, "holds gloro_fast checkpoint, not a gloro_fast model")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('architecture = "2C2F"', 'architecture = "4C3F"', "architecture from '2C2F' to '4C3F'"),
        ("num_classes = 4", "num_classes = 5", "num_classes from 4 to 5"),
        ("epsilon = 0.1", "epsilon = 0.2", r"epsilon from 0\.1 to 0\.2"),
        ("seed = 0", "seed = 1", "seed from 0 to 1"),
    ],
)
def test_an_edited_configuration_is_refused_by_field(run, old, new, message):
    text = run.config.read_text()
    assert old in text
    run.config.write_text(text.replace(old, new))
    refused(
        run.path,
        rf"config\.toml differs from what model\.safetensors was written under: {message}; change",
        ConfigError,
    )


def test_the_configuration_is_that_of_the_model(run):
    run.config.write_text(run.config.read_text().replace('data_dir = ""', 'data_dir = "moved"'))
    _, config = load_net(run.path)
    assert config.data_dir == "moved"
    run.config.unlink()
    net, config = load_net(run.path)
    assert (net.epsilon, config.recipe.epsilon, config.data_dir) == (0.1, 0.1, "")


def test_a_model_of_another_architecture_names_the_first_tensor(run):
    tensors, document = tensor_file.read(run.model, "model")
    tensors["module.0.weight"] = torch.zeros(16, 1, 3, 3)
    tensor_file.write(run.model, "model", tensors, document)
    refused(run.path, r"2C2F: module\.0\.weight is float32 \(16, 1, 3, 3\) instead of float32 \(16, 1, 4, 4\)")


def test_a_model_without_a_configuration(run):
    tensors, _ = tensor_file.read(run.model, "model")
    tensor_file.write(run.model, "model", tensors, {"epsilon": 0.1})
    refused(run.path, r"model\.safetensors cannot be used \('config'\)")


class TestLeftovers:
    """What a process killed while it wrote leaves behind."""

    def leave(self, run):
        left = [path.with_name(f".{path.name}.123.tmp") for path in (run.checkpoint, run.config, run.result)]
        others = [run.path / ".notes.txt.123.tmp", run.path / ".checkpoint.safetensors.bak"]
        for path in (*left, *others):
            path.write_bytes(b"half")
        return left, others

    def test_a_new_run_removes_them(self, run):
        left, others = self.leave(run)
        run.create()
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in others)

    def test_a_resumed_run_removes_them(self, run):
        left, others = self.leave(run)
        run.result.unlink()
        Trainer.resume(run.path, tiny_data()).fit()
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in others)

    def test_a_folder_with_nothing_else_is_free(self, tmp_path):
        folder = RunFolder(tmp_path)
        (tmp_path / ".checkpoint.safetensors.123.tmp").write_bytes(b"half")
        folder.check_free()
        (tmp_path / ".notes.txt.123.tmp").write_bytes(b"mine")
        with pytest.raises(ConfigError, match="exists"):
            folder.check_free()


def test_unknown_field(run):
    run.config.write_text(run.config.read_text().replace("epochs =", "epoch ="))
    refused(run.path, "did you mean", ConfigError)


def test_unknown_device(run):
    with pytest.raises(ConfigError, match="device 'warp' cannot be used"):
        load_net(run.path, "warp")


def test_tensors_are_loaded_wholly_or_not_at_all():
    module = torch.nn.Linear(2, 2)
    before = module.weight.clone()
    good = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    for bad, message in (
        ({"weight": good["weight"]}, r"it lacks bias, float32 \(2,\)"),
        ({**good, "bias": torch.zeros(3)}, r"bias is float32 \(3,\) instead of float32 \(2,\)"),
        ({**good, "bias": torch.zeros(2).double()}, "bias is float64"),
        ({**good, "extra": torch.zeros(1)}, "it has extra, which the net has not"),
    ):
        with pytest.raises(CheckpointError, match=f"spoilt: {message}"):
            load_into(module, bad, "spoilt")
        assert torch.equal(module.weight, before)
    load_into(module, good, "fine")
    assert not module.weight.any()


def test_no_pickle_anywhere(run, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    monkeypatch.setattr("torch.load", refuse)
    monkeypatch.setattr("pickle.Unpickler", refuse)
    load_net(run.path)


HOLD = """
import sys
from gloro_fast.train.run_folder import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


class TestLock:
    def test_two_processes_do_not_train_in_one_folder(self, tmp_path, run):
        saved = {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "held\n"
            for trainer in (
                Trainer(tiny_recipe(), tiny_data(), run.path, overwrite=True),
                Trainer(tiny_recipe(), tiny_data(), tmp_path / "free"),
            ):
                trainer.folder = RunFolder(run.path)
                with pytest.raises(ConfigError, match=f"run folder {run.path} is in use by another process; wait"):
                    trainer.fit()
            process.kill()
        assert {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()} == saved
        with run.locked():
            pass  # The lock died with its owner.

    def test_what_is_left_of_it_is_no_run(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        with folder.locked():
            assert folder.lock.exists()
        folder.check_free()
        assert Trainer(tiny_recipe(), tiny_data(), folder.path).fit()
