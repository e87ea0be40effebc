"""How tensors lie in memory is decided for a run, and is no part of its files."""

import signal

import pytest
import torch
from test_resume import assert_same_run
from tiny_run import EVERYTHING, SignalAt, tiny_data, tiny_recipe

from gloro_fast.data import DataSet, Split
from gloro_fast.files.tensor_file import read
from gloro_fast.train import Interrupted, Trainer
from gloro_fast.train import steps as steps_module
from gloro_fast.train import trainer as trainer_module
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.trained_net import load_net

FORMATS = [torch.contiguous_format, torch.channels_last]


def color_data():
    """With one channel, both formats would be the same."""
    data = tiny_data()
    splits = [Split(split.images.repeat(1, 3, 1, 1), split.labels) for split in (data.train, data.test)]
    return DataSet(data.name, *splits, data.class_names)


@pytest.fixture
def use(monkeypatch):
    """Have trainers use a format."""
    return lambda format: monkeypatch.setattr(trainer_module, "memory_format", lambda net, device: format)


def lies(tensor, format):
    return tensor.is_contiguous(memory_format=format)


def check_state(trainer, format):
    weights = [parameter for parameter in trainer.net.parameters() if parameter.dim() == 4]
    assert len(weights) == 2
    for weight in weights:
        moments = trainer.state.optimizer.state[weight]
        assert all(lies(tensor, format) for tensor in (weight, moments["exp_avg"], moments["exp_avg_sq"]))


def numbers(trainer):
    tensors = trainer.state.tensors()
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("generator.")}


def stopped(out):
    trainer = Trainer(tiny_recipe(**EVERYTHING), color_data(), out, observers=[SignalAt(signal.SIGTERM, 3, 2)])
    with pytest.raises(Interrupted):
        trainer.fit()
    return trainer


@pytest.mark.parametrize("format", FORMATS)
def test_weights_moments_and_batches_lie_as_asked(tmp_path, use, monkeypatch, format):
    use(format)
    seen, plain = [], steps_module.robust_loss

    def spy(net, images, labels, criterion):
        seen.append(images)
        return plain(net, images, labels, criterion)

    monkeypatch.setattr(steps_module, "robust_loss", spy)
    check_state(stopped(tmp_path), format)
    assert len(seen) == 6
    assert all(lies(images, format) for images in seen)


@pytest.mark.parametrize("format", FORMATS)
def test_resuming_gives_the_same_bits(tmp_path, use, format):
    use(format)
    whole = Trainer(tiny_recipe(**EVERYTHING), color_data(), tmp_path / "whole")
    whole.fit()
    stopped(tmp_path / "run")
    resumed = Trainer.resume(tmp_path / "run", color_data())
    check_state(resumed, format)
    resumed.fit()
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    net, _ = load_net(tmp_path / "run")
    trained = whole.net.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("first", "second"), [FORMATS, FORMATS[::-1]])
def test_a_run_goes_on_in_another_format(tmp_path, use, first, second):
    use(first)
    before = numbers(stopped(tmp_path))
    tensors, _ = read(RunFolder(tmp_path).checkpoint, "checkpoint")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    use(second)
    resumed = Trainer.resume(tmp_path, color_data())
    check_state(resumed, second)
    after = numbers(resumed)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    resumed.fit()
