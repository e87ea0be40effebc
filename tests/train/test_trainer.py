import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import EPOCHS, EVERYTHING, STEPS, SignalAt, tiny_data, tiny_recipe
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast import schedules
from gloro_fast.data import Split, split_validation
from gloro_fast.errors import ConfigError
from gloro_fast.evaluate import evaluate
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, TradesLoss
from gloro_fast.train import Interrupted, Observer, Trainer
from gloro_fast.train import validation as validation_module
from gloro_fast.train.build import memory_format
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.trained_net import load_net


class Watch(Observer):
    """Notes what is in force at every step, and the weights after every epoch."""

    def __init__(self):
        self.trainer, self.steps, self.epochs = None, [], []

    def on_step(self, step):
        trainer = self.trainer
        (group,) = trainer.state.optimizer.param_groups
        lam = getattr(trainer.criterion, "lam", None)
        self.steps.append(
            (step.epoch, step.settings.phase, trainer.net.epsilon, lam, group["lr"], trainer.state.optimizer)
        )

    def on_epoch(self, metrics):
        self.epochs.append({name: tensor.clone() for name, tensor in self.trainer.net.state_dict().items()})


def watched(out, recipe, data=None, **options):
    watch = Watch()
    watch.trainer = Trainer(recipe, data or tiny_data(), out, observers=[watch], **options)
    return watch


def weights(trainer):
    return trainer.net.state_dict()


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in second)


def test_same_seed_same_bits_in_one_process(tmp_path):
    first = Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "1", seed=3)
    torch.rand(11)
    second = Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "2", seed=3)
    torch.rand(5)
    other = Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / "3", seed=4)
    results = [trainer.fit() for trainer in (first, second, other)]
    assert same(weights(first), weights(second))
    assert results[0].lipschitz == results[1].lipschitz
    assert not same(weights(first), weights(other))


def test_training_learns(tmp_path):
    result = Trainer(tiny_recipe(epochs=15), tiny_data(train=200, test=100), tmp_path).fit()
    assert result.clean_accuracy > 0.9
    assert 0.3 < result.vra <= result.clean_accuracy


def test_schedules_are_applied_epoch_by_epoch(tmp_path):
    recipe = tiny_recipe(
        epochs=4, warmup_epochs=2, epsilon=0.1, epsilon_train=0.2, epsilon_schedule="log", lam="0.5,2,4"
    )
    watch = watched(tmp_path, recipe)
    watch.trainer.fit()
    found = sorted({step[:5] for step in watch.steps if step[1] == "robust"})
    rate = schedules.exponential_after_half(1e-3, 1e-6, 4)
    epsilon, lam = schedules.logarithmic(0.2, 4), schedules.linear(0.5, 2, 4)
    assert found == [(3 + t, "robust", epsilon(t), lam(t), rate(t)) for t in range(4)]
    assert {step[4] for step in watch.steps if step[1] == "warmup"} == {1e-3}
    assert watch.trainer.net.epsilon == 0.1


def test_warmup_is_plain_cross_entropy_and_the_optimizer_starts_anew(tmp_path):
    data, recipe = tiny_data(), tiny_recipe(warmup_epochs=2, epochs=1)
    watch = watched(tmp_path, recipe, data)
    net = watch.trainer.net
    by_hand = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
    order_generator = torch.Generator()
    order_generator.set_state(watch.trainer.state.randomness.order.get_state())
    iterates = [vector.clone() for vector in net.iterates.vectors()]
    watch.trainer.fit()

    assert [step[1] for step in watch.steps] == ["warmup"] * 2 * 5 + ["robust"] * 5
    optimizers = [step[5] for step in watch.steps]
    assert optimizers[0] is optimizers[9]
    assert optimizers[10] is not optimizers[9]
    (moments, *_) = watch.trainer.state.optimizer.state.values()
    assert moments["step"] == 5

    # Warm-up by hand, in stock PyTorch, with the same order. Where weights and images also lie in memory as they do in
    # the trainer, every operation gets what it got there, and so gives the same bits; for another layout oneDNN may
    # have another kernel, which adds up in another order.
    module = watch.trainer.net.module
    after = {name.removeprefix("module."): t for name, t in watch.epochs[1].items() if name.startswith("module.")}
    layout = memory_format(net, torch.device("cpu"))
    module.to(memory_format=layout).load_state_dict(by_hand)
    module.train()
    adam = torch.optim.Adam(module.parameters(), lr=1e-3, eps=1e-7, fused=True)
    for _ in range(2):
        order = torch.randperm(len(data.train), generator=order_generator)
        for chosen in order.split(recipe.batch_size):
            images = (data.train.images[chosen].float() / 255).contiguous(memory_format=layout)
            loss = functional.cross_entropy(module(images), data.train.labels[chosen])
            adam.zero_grad()
            loss.backward()
            adam.step()
    assert same(module.state_dict(), after)
    assert all(torch.equal(watch.epochs[1][f"iterates.{index}"], vector) for index, vector in enumerate(iterates))


@pytest.mark.parametrize(
    ("loss", "kind", "robust"),
    [
        ("ce", CrossEntropyLoss, None),
        ("trades-kl", TradesLoss, "kl"),
        ("trades-ce", TradesLoss, "ce"),
        ("emma", EmmaLoss, None),
    ],
)
def test_losses_by_name(tmp_path, loss, kind, robust):
    trainer = Trainer(tiny_recipe(loss=loss, epochs=1), tiny_data(), tmp_path)
    trainer.fit()
    assert type(trainer.criterion) is kind
    assert getattr(trainer.criterion, "robust", None) == robust


def test_adam_as_in_the_paper(tmp_path):
    (group,) = Trainer(tiny_recipe(), tiny_data(), tmp_path).state.optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-7, 0)
    assert group["fused"]


class ConvolutionTypes(TorchDispatchMode):
    """Notes the type of every convolution of a batch, whichever module or kernel calls for it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default and len(args[0]) > 1:
            self.seen.add((self.net.training, args[0].dtype))
        return function(*args, **(kwargs or {}))


def test_bfloat16_keeps_weights_moments_and_iterates_in_float32(tmp_path):
    trainer = Trainer(tiny_recipe(precision="bfloat16", epochs=1), tiny_data(), tmp_path)
    with ConvolutionTypes(trainer.net) as types:
        trainer.fit()
    tensors = trainer.state.tensors()
    kept = [tensor for name, tensor in tensors.items() if name.startswith(("net.", "optimizer."))]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert types.seen == {(True, torch.bfloat16), (False, torch.float32)}


@pytest.fixture
def validation(monkeypatch):
    """A validation that finds the VRAs it is told to, epoch by epoch, and notes what it was asked."""

    class Validation:
        clean_accuracy, lipschitz = 1.0, 2.0

        def __init__(self):
            self.vras, self.epsilons, self.splits = (0.0,) * 10, [], []

        def __call__(self, net, split):
            self.splits.append(split)
            return self

        def vra(self, epsilon):
            self.epsilons.append(epsilon)
            return self.vras[len(self.epsilons) - 1]

    made = Validation()
    monkeypatch.setattr(validation_module, "evaluate", made)
    return made


class TestSelection:
    def test_without_validation_the_last_epoch_is_kept(self, tmp_path):
        watch = watched(tmp_path, tiny_recipe())
        result = watch.trainer.fit()
        assert (result.selected_epoch, result.validation_vra) == (EPOCHS, None)
        assert same(load_file(RunFolder(tmp_path).model), watch.epochs[-1])

    @pytest.mark.parametrize(("vras", "best"), [((0.2, 0.9, 0.5, 0.1), 2), ((0.4, 0.7, 0.7, 0.2), 3), ((0,) * 4, 4)])
    def test_the_best_vra_on_the_validation_split_is_kept(self, tmp_path, validation, vras, best):
        recipe = tiny_recipe(epochs=4, validation_size=10, epsilon=0.1, epsilon_train=0.3)
        validation.vras = vras
        watch = watched(tmp_path, recipe)
        result = watch.trainer.fit()
        assert validation.epsilons == [0.1] * 4
        assert (result.selected_epoch, result.validation_vra) == (best, vras[best - 1])
        assert same(load_file(RunFolder(tmp_path).model), watch.epochs[best - 1])
        assert same(weights(watch.trainer), watch.epochs[best - 1])

    def test_it_is_the_validation_split_that_is_asked(self, tmp_path, validation):
        Trainer(tiny_recipe(validation_size=10), tiny_data(), tmp_path, seed=5).fit()
        _, expected = split_validation(tiny_data().train, 10, 5)
        assert len(validation.splits) == EPOCHS
        assert all(torch.equal(split.images, expected.images) for split in validation.splits)

    @pytest.mark.parametrize("stop", [(2, 1), (3, 2), (3, 4)])
    def test_the_best_epoch_survives_an_interruption(self, tmp_path, validation, stop):
        validation.vras = (0.9, 0.5, 0.5)
        watch = watched(tmp_path, tiny_recipe(validation_size=10))
        watch.trainer._observers.append(SignalAt(signal.SIGTERM, *stop))
        with pytest.raises(Interrupted):
            watch.trainer.fit()
        result = Trainer.resume(tmp_path, tiny_data()).fit()
        assert (result.selected_epoch, result.validation_vra) == (1, 0.9)
        assert same(load_file(RunFolder(tmp_path).model), watch.epochs[0])

    def test_the_test_split_decides_nothing(self, tmp_path):
        data = tiny_data()
        scrambled = type(data)(
            data.name, data.train, Split(data.test.images.flip(3), data.test.labels.flip(0)), data.class_names
        )
        for name, these in (("1", data), ("2", scrambled)):
            Trainer(tiny_recipe(**EVERYTHING), these, tmp_path / name).fit()
        assert same(load_file(RunFolder(tmp_path / "1").model), load_file(RunFolder(tmp_path / "2").model))

    def test_validation_images_are_not_trained_on(self, tmp_path):
        data = tiny_data()
        trainer = Trainer(tiny_recipe(validation_size=10), data, tmp_path)
        assert len(trainer.state.sums.values) == 6
        trainer.fit()
        assert trainer.state.sums.values[1] == len(data.train) - 10


def test_result_is_the_evaluation_of_the_saved_net(tmp_path):
    data = tiny_data()
    result = Trainer(tiny_recipe(epochs=5), data, tmp_path, seed=2, data_dir="somewhere").fit()
    written = json.loads(RunFolder(tmp_path).result.read_text())
    assert written == {**result.to_dict(), "radius_quartiles": list(result.radius_quartiles)}
    net, config = load_net(tmp_path)
    found = evaluate(net, data.test)
    assert (written["clean_accuracy"], written["vra"]) == (found.clean_accuracy, found.vra(0.1))
    assert (written["lipschitz"], written["method"]) == (found.lipschitz, "auto")
    assert (written["epsilon"], written["epochs"], written["seed"], written["data"]) == (0.1, 5, 2, "stripes")
    assert written["seconds"] >= 5 * written["seconds_per_epoch"] * 0.9
    assert (config.data_dir, config.threads) == ("somewhere", 1)


def test_numbers_that_are_not_finite_become_null(tmp_path):
    result = Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path).fit()
    infinite = type(result)(**{**vars(result), "lipschitz": math.inf, "radius_quartiles": (0.0, math.nan, math.inf)})
    written = json.loads(infinite.to_json())
    assert written["lipschitz"] is None
    assert written["radius_quartiles"] == [0.0, None, None]


class TestFolder:
    def test_one_that_holds_something_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ConfigError, match=r"exists; choose another --out, or --resume it, or --overwrite"):
            Trainer(tiny_recipe(), tiny_data(), tmp_path)

    def test_overwriting_leaves_files_of_other_names(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        first = Trainer(tiny_recipe(), tiny_data(), tmp_path, overwrite=True).fit()
        second = Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path, overwrite=True).fit()
        assert (tmp_path / "notes.txt").read_text() == "mine"
        assert (first.epochs, second.epochs) == (EPOCHS, 1)
        assert len(RunFolder(tmp_path).metrics.read_text().splitlines()) == 2

    @pytest.mark.parametrize(
        ("fields", "options", "error"),
        [
            ({"batch_size": 1000}, {}, ConfigError),
            ({"validation_size": 1000}, {}, ConfigError),
            ({"architecture": "2C2G"}, {}, ConfigError),
            ({}, {"device": "warp"}, ConfigError),
            ({}, {"device": "meta:0:1"}, ConfigError),
            ({}, {"seed": -1}, ConfigError),
        ],
    )
    def test_nothing_is_made_where_the_configuration_cannot_be_used(self, tmp_path, fields, options, error):
        with pytest.raises(error) as caught:
            Trainer(tiny_recipe(**fields), tiny_data(), tmp_path / "run", **options)
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_steps_of_an_epoch_keep_the_partial_batch(tmp_path):
    watch = watched(tmp_path, tiny_recipe(validation_size=10, epochs=1))
    watch.trainer.fit()
    assert len(watch.steps) == STEPS
