import csv
import io

import pytest
import torch
from rich.console import Console
from tiny_run import EVERYTHING, STEPS, tiny_data, tiny_recipe

from gloro_fast.errors import ConfigError
from gloro_fast.train import Observer, ProgressBar, TensorBoard, Trainer
from gloro_fast.train.observers.curves import draw
from gloro_fast.train.run_folder import RunFolder

PNG = b"\x89PNG\r\n\x1a\n"


def test_metrics_csv(tmp_path):
    Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path).fit()
    with open(RunFolder(tmp_path).metrics, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert ",".join(reader.fieldnames) == (
        "epoch,phase,loss,train_clean,train_vra,lipschitz,epsilon,lam,learning_rate,seconds,"
        "validation_clean,validation_vra,validation_lipschitz,bound_gap"
    )
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["phase"] for row in rows] == ["warmup", "robust", "robust", "robust"]
    for name in ("train_vra", "lipschitz", "epsilon", "lam", "validation_vra"):
        assert rows[0][name] == ""
    for row in rows[1:]:
        assert 0 <= float(row["train_vra"]) <= float(row["train_clean"]) <= 1
        assert 0 <= float(row["validation_vra"]) <= float(row["validation_clean"]) <= 1
        assert float(row["lipschitz"]) > 0


def test_clean_and_vra_are_shares_of_the_images_counted_by_hand(tmp_path):
    """The last batch is smaller; the weights stand still, so that every step sees the same net and the same K."""
    images, labels = tiny_data().train.images.float() / 255, tiny_data().train.labels
    still = {"learning_rate": 1e-30, "learning_rate_end": 1e-30, "power_iterations": 100, "epsilon_schedule": "single"}
    fields = {**still, "epochs": 1}
    first = Trainer(tiny_recipe(**fields), tiny_data(), tmp_path / "1")
    first.fit()
    (row,) = first.state.rows
    module = first.net.module
    with torch.no_grad():
        logits, head = module(images), module[-1].weight.detach()
    largest, prediction = logits.max(dim=1)
    ratio = (largest[:, None] - logits) / (row.lipschitz * torch.cdist(head, head)[prediction])
    radius = ratio.nan_to_num(torch.inf).amin(dim=1)
    correct = radius[prediction == labels].sort().values
    uncertified = len(correct) // 2
    assert 0 < uncertified < len(correct) < len(labels)

    epsilon = float(correct[uncertified - 1 : uncertified + 1].mean())
    second = Trainer(tiny_recipe(**fields, epsilon=epsilon, epsilon_train=epsilon), tiny_data(), tmp_path / "2")
    second.fit()
    (row,) = second.state.rows
    assert row.train_clean == len(correct) / len(labels)
    assert row.train_vra == (len(correct) - uncertified) / len(labels)


def test_the_lipschitz_column_is_that_of_the_last_step(tmp_path):
    seen = []

    class Notes(Observer):
        def on_step(self, step):
            seen.append(float(trainer.net.batch_statistics.lipschitz))

    trainer = Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path, observers=[Notes()])
    trainer.fit()
    assert len(set(seen)) == STEPS + 1
    assert trainer.state.rows[0].lipschitz == seen[-1]


def test_curves_are_a_png(tmp_path, monkeypatch):
    monkeypatch.setattr("gloro_fast.train.observers.curves.draw", draw)
    Trainer(tiny_recipe(**{**EVERYTHING, "epochs": 1}), tiny_data(), tmp_path).fit()
    assert RunFolder(tmp_path).curves.read_bytes().startswith(PNG)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[TensorBoard()])
    trainer.fit()
    events = EventAccumulator(str(RunFolder(tmp_path).tensorboard))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(row.epoch, pytest.approx(row.loss)) for row in trainer.state.rows]


def test_tensorboard_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install tensorboard"):
        TensorBoard()


def test_progress_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr("gloro_fast.train.observers.progress._SECONDS_BETWEEN", 0.0)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=150)
    Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[ProgressBar(console)]).fit()
    for word in ("epoch 3/3", "loss", "clean", "VRA", "K ", "left"):
        assert word in text.getvalue()


def test_progress_in_a_log_file(tmp_path):
    text = io.StringIO()
    bar = ProgressBar(Console(file=text, width=150))
    Trainer(tiny_recipe(warmup_epochs=1), tiny_data(), tmp_path, observers=[bar]).fit()
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"epoch {epoch}/4" for epoch in (1, 2, 3, 4)]
    assert "VRA" not in lines[0]
    assert "VRA" in lines[1]


def test_every_hook_is_called_and_observers_are_closed_on_errors(tmp_path):
    calls = []

    class Records(Observer):
        def on_start(self, run):
            calls.append(("start", run.epochs, run.batches, run.steps_done))

        def on_step(self, step):
            calls.append(("step", step.epoch, step.batch))

        def on_epoch(self, metrics):
            calls.append(("epoch", metrics.epoch))

        def on_end(self, result):
            assert not RunFolder(tmp_path / "1").finished
            calls.append(("end",))

        def close(self):
            calls.append(("close",))

    recipe = tiny_recipe(epochs=1, validation_size=10)
    Trainer(recipe, tiny_data(), tmp_path / "1", observers=[Records()]).fit()
    steps = [("step", 1, batch) for batch in range(1, STEPS + 1)]
    assert calls == [("start", 1, STEPS, 0), *steps, ("epoch", 1), ("end",), ("close",)]

    class Fails(Observer):
        def on_step(self, step):
            raise RuntimeError("planted")

    calls.clear()
    with pytest.raises(RuntimeError, match="planted"):
        Trainer(recipe, tiny_data(), tmp_path / "2", observers=[Fails(), Records()]).fit()
    assert calls == [("start", 1, STEPS, 0), ("close",)]
