"""Training and evaluation on what other libraries hold data in: the same bits as on the data in memory."""

import signal
import warnings

import pytest
import torch
from fake_graph import FakeRecorder
from tiny_run import EPOCHS, EVERYTHING, SignalAt, tiny_data, tiny_recipe
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gloro_fast.data import Source
from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.evaluate import evaluate
from gloro_fast.train import Interrupted, Trainer, build
from gloro_fast.train import trainer as trainer_module

STREAM = {"warmup_epochs": 1, "augmentation": "default"}


class Dictionaries:
    def __init__(self, split):
        self.split = split
        self.features = {"label": type("ClassLabel", (), {"names": ["a", "b", "c", "d"]})()}

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return {"image": self.split.images[index, 0].numpy(), "label": int(self.split.labels[index])}


class Stream(IterableDataset):
    def __init__(self, split):
        self.split = split

    def __iter__(self):
        return iter(zip(self.split.images, self.split.labels.tolist(), strict=True))


def bits(trainer):
    return {name: tensor.clone() for name, tensor in trainer.net.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in second)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """An unbroken run on a stream of unknown length and with classes to count."""
    data = tiny_data()
    out = tmp_path_factory.mktemp("streamed") / "run"
    trainer = Trainer(tiny_recipe(**STREAM), (Stream(data.train), Stream(data.test)), out)
    return trainer, trainer.fit()


def test_a_run_on_dictionaries_has_the_bits_of_one_in_memory(tmp_path):
    data = tiny_data()
    expected = Trainer(tiny_recipe(**EVERYTHING), data, tmp_path / "memory")
    pair = {"train": Dictionaries(data.train), "test": Dictionaries(data.test)}
    found = Trainer(tiny_recipe(**EVERYTHING), pair, tmp_path / "own")
    result, own = expected.fit(), found.fit()
    assert same(bits(expected), bits(found))
    assert (own.vra, own.clean_accuracy, own.test_images) == (result.vra, result.clean_accuracy, result.test_images)
    assert own.validation_vra == result.validation_vra


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_run_on_a_stream_goes_on_bit_for_bit(streamed, tmp_path, wrapped):
    data = tiny_data()

    def own():
        if not wrapped:
            return Stream(data.train), Stream(data.test)
        # Batches of another size than the recipe's are the same images in the same order.
        return DataLoader(Stream(data.train), batch_size=7), DataLoader(Stream(data.test), batch_size=9)

    recipe = tiny_recipe(**STREAM)
    with pytest.raises(Interrupted):
        Trainer(recipe, own(), tmp_path / "run", observers=[SignalAt(signal.SIGTERM, 2, 3)]).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = Trainer.resume(tmp_path / "run", own())
    assert (trainer.state.epoch, trainer.state.batch) == (1, 3)
    result = trainer.fit()
    unbroken, its = streamed
    assert same(bits(unbroken), bits(trainer))
    assert result.vra == its.vra
    assert len(trainer.state.rows) == EPOCHS + 1


def test_captured_steps_on_a_stream_give_the_bits_of_eager_ones(tmp_path, monkeypatch):
    data, fake = tiny_data(), FakeRecorder()
    monkeypatch.setattr(build, "_TENSOR_RATE", ("cpu",))
    monkeypatch.setattr(trainer_module, "recorder_for", lambda device: fake)
    pair = Stream(data.train), Stream(data.test)
    captured = Trainer(tiny_recipe(**STREAM), pair, tmp_path / "captured")
    eager = Trainer(tiny_recipe(**STREAM), pair, tmp_path / "eager", graphs=False)
    assert captured.fit().graphs == "captured"
    assert fake.replays > EPOCHS
    eager.fit()
    assert same(bits(eager), bits(captured))


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    data, other = tiny_data(), tiny_data(seed=1)
    pair = Dictionaries(data.train), Dictionaries(data.test)
    with pytest.raises(Interrupted):
        Trainer(tiny_recipe(), pair, tmp_path / "run", observers=[SignalAt(signal.SIGTERM, 1, 1)]).fit()
    with pytest.raises(CheckpointError, match="own is not the data that run"):
        Trainer.resume(tmp_path / "run", (Dictionaries(other.train), Dictionaries(data.test)))


def test_a_stream_cannot_be_divided_or_be_smaller_than_a_batch(tmp_path):
    data = tiny_data()
    with pytest.raises(ConfigError, match="a stream of images cannot be divided"):
        Trainer(tiny_recipe(validation_size=10), (Stream(data.train), Stream(data.test)), tmp_path / "run")
    with pytest.raises(ConfigError, match="batch size 1000 is larger than the data set's 68 images"):
        Trainer(tiny_recipe(batch_size=1000), (Stream(data.train), Stream(data.test)), tmp_path / "run")


def test_whatever_holds_the_images_they_are_certified_alike(streamed):
    net, test = streamed[0].net, tiny_data().test
    expected = evaluate(net, test, 16)
    loader = DataLoader(TensorDataset(test.images, test.labels), batch_size=7)
    for reads in (loader, Dictionaries(test), Stream(test), Source(Stream(test), length=40)):
        found = evaluate(net, reads, 16)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.radius, expected.radius)
        assert torch.equal(found.logits, expected.logits)
        assert found.vra(0.1) == expected.vra(0.1)
