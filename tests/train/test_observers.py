import collections
import csv
import io
import math
import re
import sys
import types

import pytest
import torch
from rich.console import Console
from tiny_run import EVERYTHING, STEPS, tiny_data, tiny_recipe

from gloro_fast.errors import ConfigError
from gloro_fast.train import MLflow, Observer, ProgressBar, TensorBoard, Trainer, WeightsAndBiases
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
    result = trainer.fit()
    events = EventAccumulator(str(RunFolder(tmp_path).tensorboard), size_guidance={"histograms": 0})
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(row.epoch, pytest.approx(row.loss)) for row in trainer.state.rows]
    norms = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"] if tag.startswith("spectral_norm_estimate/")}
    assert len(norms) == 3
    assert all([event.step for event in found] == [1, 2, 3] for found in norms.values())
    # Their product is K before the head, of the weights at the end of the epoch.
    last = math.prod(found[-1].value for found in norms.values())
    assert last == pytest.approx(trainer.net.find_bound("power").lipschitz, rel=1e-4)
    histograms = events.Histograms("radius_estimate")
    assert [event.step for event in histograms] == [1, 2, 3]
    # All of the training split, which has fewer than a thousand images.
    assert histograms[0].histogram_value.num == len(tiny_data().train)
    assert [events.Scalars("test/vra")[0].step, events.Scalars("test/vra")[0].value] == [3, pytest.approx(result.vra)]


def test_watching_changes_no_bit(tmp_path, wandb):
    plain, watched = (
        Trainer(tiny_recipe(**EVERYTHING), tiny_data(), tmp_path / name, observers=observers)
        for name, observers in (("plain", []), ("watched", [WeightsAndBiases()]))
    )
    plain.fit()
    watched.fit()
    assert all(map(torch.equal, plain.net.state_dict().values(), watched.net.state_dict().values()))


@pytest.fixture
def wandb(monkeypatch):
    """A module with what is used of wandb 0.31, which keeps what it is told."""

    class Run:
        def __init__(self, id):
            self.id, self.logged, self.exit_code = id or "new", [], None

        def log(self, data, step=None, commit=None):
            self.logged.append((step, data))

        def finish(self, exit_code=None, quiet=None):
            self.exit_code = exit_code

    def init(entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None, resume=None):
        if module.broken:
            raise module.Error("no API key")
        module.runs.append(Run(id))
        module.begun.append(
            {"project": project, "dir": dir, "id": id, "name": name, "config": config, "resume": resume}
        )
        return module.runs[-1]

    module = types.ModuleType("wandb")
    module.Error, module.init = type("Error", (Exception,), {}), init
    module.broken, module.runs, module.begun = False, [], []
    module.Histogram = lambda sequence=None, np_histogram=None, num_bins=64: ("histogram", len(sequence))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    """A module with what is used of mlflow 3.17, which keeps what it is told."""

    class Client:
        def __init__(self, tracking_uri=None, registry_uri=None, workspace_store_uri=None):
            pass

        def get_experiment_by_name(self, name):
            return module.experiments.get(name)

        def create_experiment(self, name, artifact_location=None, tags=None):
            module.experiments[name] = types.SimpleNamespace(experiment_id="7")
            return "7"

        def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
            if module.broken:
                raise module.MlflowException("no server")
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"run of {experiment_id}"))

        def update_run(self, run_id, status=None, name=None):
            module.told.append((run_id, status))

        def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
            module.told.append((run_id, {metric.key: (metric.value, metric.step) for metric in metrics}))
            module.params.update({param.key: param.value for param in params})

        def set_terminated(self, run_id, status=None, end_time=None):
            module.told.append((run_id, status))

    module = types.ModuleType("mlflow")
    module.MlflowClient, module.MlflowException = Client, type("MlflowException", (Exception,), {})
    module.broken, module.experiments, module.told, module.params = False, {}, [], {}
    names = {"Metric": ["key", "value", "timestamp", "step"], "Param": ["key", "value"]}
    module.entities = types.SimpleNamespace(**{n: collections.namedtuple(n, fields) for n, fields in names.items()})
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return module


class Stops(Observer):
    def on_epoch(self, metrics):
        if metrics.epoch == 1:
            raise RuntimeError("planted")


def test_weights_and_biases(tmp_path, wandb):
    observers = [WeightsAndBiases(), Stops()]
    with pytest.raises(RuntimeError, match="planted"):
        Trainer(tiny_recipe(), tiny_data(), tmp_path, data_dir="/home/me", observers=observers).fit()
    trainer = Trainer.resume(tmp_path, tiny_data(), observers=[WeightsAndBiases()])
    trainer.fit()
    first, second = wandb.begun
    assert (first["id"], second["id"]) == (None, "new")
    assert {(begun["project"], begun["resume"], begun["dir"]) for begun in (first, second)} == {
        ("gloro-fast", "allow", str(tmp_path))
    }
    assert first["config"]["epsilon"] == 0.1
    assert "/home/me" not in map(str, first["config"].values())
    broken, whole = wandb.runs
    assert (broken.exit_code, whole.exit_code) == (1, 0)
    logged = broken.logged + whole.logged
    assert [step for step, _ in logged] == [1, 2, 3, 3]
    assert [data["loss"] for _, data in logged[:-1]] == [row.loss for row in trainer.state.rows]
    assert logged[0][1]["radius_estimate"] == ("histogram", len(tiny_data().train))
    assert set(logged[-1][1]) == {"test/clean", "test/vra", "test/lipschitz"}


def test_mlflow(tmp_path, mlflow):
    with pytest.raises(RuntimeError, match="planted"):
        Trainer(tiny_recipe(), tiny_data(), tmp_path, data_dir="/home/me", observers=[MLflow(), Stops()]).fit()
    trainer = Trainer.resume(tmp_path, tiny_data(), observers=[MLflow()])
    trainer.fit()
    assert list(mlflow.experiments) == ["gloro-fast"]
    assert mlflow.params["epsilon"] == "0.1"
    assert "/home/me" not in mlflow.params.values()
    assert {name for name, _ in mlflow.told} == {"run of 7"}
    statuses = [told for _, told in mlflow.told if isinstance(told, str)]
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]
    metrics = [told for _, told in mlflow.told if isinstance(told, dict) and told]
    assert [found["loss"] for found in metrics[:-1]] == [(row.loss, row.epoch) for row in trainer.state.rows]
    quantiles = [metrics[0][f"radius_estimate/{percent}"][0] for percent in (10, 25, 50, 75, 90)]
    assert quantiles == sorted(quantiles)
    # Names that MLflow takes.
    assert all(re.fullmatch(r"[\w./ -]+", name) for found in metrics for name in found)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_trackers_that_are_missing_or_refuse(name, tmp_path, monkeypatch, request):
    tracker = {"wandb": WeightsAndBiases, "mlflow": MLflow}[name]
    request.getfixturevalue(name).broken = True
    with pytest.raises(ConfigError, match=f"refuses the run .*leave --log {name} out"):
        Trainer(tiny_recipe(), tiny_data(), tmp_path, observers=[tracker()]).fit()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'gloro-fast\[{name}\]'"):
        tracker()


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
