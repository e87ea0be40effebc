"""From what the user asked for to a Trainer: a new run, or one to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import typer

from gloro_fast.cli.options import usable_device, use_threads
from gloro_fast.data import DataSet, load
from gloro_fast.distributed import current, restarts
from gloro_fast.errors import ConfigError
from gloro_fast.recipes import NEUTRAL_NEEDS, Recipe, get, neutral
from gloro_fast.train import (
    MLflow,
    Observer,
    ProgressBar,
    RunConfig,
    TensorBoard,
    Trainer,
    WeightsAndBiases,
    check_unchanged,
    read_config,
    saved_config,
)
from gloro_fast.train.run_folder import RunFolder

RUNS = Path("runs")
TRACKERS: dict[str, type[Observer]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


@dataclass(frozen=True)
class RunRequest:
    """What was given on the command line; None stands for nothing.

    Attributes:
        recipe: name of a recipe, or path of a config.toml.
        fields: fields of the recipe to change.
        data_dir: where the data are.
        out: the run folder.
        seed: of all random numbers.
        device: as torch names it.
        threads: CPU threads.
        download: whether torchvision may fetch the data.
        logs: trackers of experiments to tell of the run, names in ``TRACKERS``.
        test_share: of each class, to hold out for testing where the data are not split.
        graphs: whether to capture the steps on a GPU.
        deterministic: whether a GPU is to use deterministic algorithms alone.
        tf32: whether training on a GPU may use TF32.
        loaded: data sets that are in memory already, with their place, by name.
    """

    recipe: str | None
    fields: Mapping[str, Any]
    data_dir: Path | None
    seed: int | None
    device: str | None
    threads: int | None
    download: bool
    out: Path | None = None
    logs: tuple[str, ...] = ()
    graphs: bool = True
    deterministic: bool | None = None
    test_share: float | None = None
    tf32: bool | None = None
    loaded: Mapping[str, tuple[DataSet, str]] = field(default_factory=dict)

    def load_data(self, name: str, otherwise: str, test_share: float | None = None) -> tuple[DataSet, str]:
        """Load a data set from the folder asked for, or else from ``otherwise``; give it and its place.

        Args:
            name: of the data set.
            otherwise: the place.
            test_share: to hold out, if none was asked for.
        """
        if name in self.loaded:
            return self.loaded[name]
        place = str(self.data_dir.expanduser().resolve()) if self.data_dir is not None else otherwise
        share = test_share if self.test_share is None else self.test_share
        with current().together():
            data = load(name, place or None, download=self.download, test_share=share)
        return data, place

    def observers(self) -> list[Observer]:
        """Return the observers that show the run."""
        return [ProgressBar(), *(TRACKERS[name]() for name in self.logs)]


def begin(request: RunRequest, *, overwrite: bool) -> Trainer:
    """Prepare a new run.

    Raises:
        GloroFastError: recipe, fields, data or run folder cannot be used.
    """
    group = current()
    with group.together():
        recipe, origin = _asked(request)
        out = RUNS / recipe.name if request.out is None else request.out
        if group.is_main and not overwrite:
            RunFolder(out).check_free()
    observers = request.observers()
    use_threads(request.threads)
    device = usable_device(request.device)
    if origin is not None and origin.recipe.data == recipe.data:
        data, place = request.load_data(recipe.data, origin.data_dir, origin.test_share or None)
    else:
        data, place = request.load_data(recipe.data, "")
    seed = request.seed if request.seed is not None else origin.seed if origin is not None else 0
    trainer = Trainer(
        recipe,
        data,
        out,
        seed=seed,
        device=device,
        data_dir=place,
        observers=observers,
        overwrite=overwrite,
        graphs=request.graphs,
        deterministic=request.deterministic is not False,
        tf32=request.tf32,
    )
    _announce(f"training {recipe.name}", data, out, device)
    return trainer


def after_restart(request: RunRequest) -> RunRequest | None:
    """Return what to go on with where torchrun has started the command anew, after a process of it failed.

    Returns:
        None where it has not, or where there is nothing to go on with.
    """
    group, out = current(), None
    with group.together():
        if group.is_main and restarts():
            folder = RunFolder(RUNS / _asked(request)[0].name if request.out is None else request.out)
            out = folder.path if folder.checkpoint.is_file() and not folder.finished else None
    out = group.tell(out)
    if out is None:
        return None
    # The same command began the run, so that there is nothing to compare.
    return replace(request, recipe=None, fields={}, out=out, seed=None, deterministic=None, test_share=None, tf32=None)


def go_on(request: RunRequest) -> Trainer:
    """Take up a run; what was not asked for is as its configuration says, the number of threads too.

    Raises:
        GloroFastError: there is no such run, something asked for differs from it, or its data are elsewhere.
    """
    group, found = current(), None
    with group.together():
        if group.is_main:
            found = _saved(request)
    told = group.tell(found)
    assert told is not None
    out, saved = told
    observers = request.observers()
    use_threads(request.threads or saved.threads or None)
    data, _ = request.load_data(saved.recipe.data, saved.data_dir, saved.test_share or None)
    trainer = Trainer.resume(out, data, observers=observers, device=request.device, graphs=request.graphs)
    _announce(f"going on with {saved.recipe.name}", data, out, trainer.config.device)
    return trainer


def _saved(request: RunRequest) -> tuple[Path, RunConfig]:
    """Return the folder of a run to go on with, and its configuration, which nothing asked for may differ from."""
    recipe = None if request.recipe is None else _recipe(request.recipe)[0]
    if request.out is None and recipe is None:
        raise ConfigError("--resume needs the run folder; give it with --out")
    out = RUNS / recipe.name if request.out is None and recipe is not None else request.out
    assert out is not None
    saved = saved_config(RunFolder(out))
    by_name = None if recipe is None else recipe.name if recipe.name == request.recipe else recipe
    asked = {
        "recipe": by_name,
        "seed": request.seed,
        "deterministic": request.deterministic,
        "test_share": request.test_share,
    }
    if request.tf32 is not None:
        asked["tf32"] = "on" if request.tf32 else "off"
    check_unchanged(saved, {**request.fields, **asked})
    return out, saved


def _asked(request: RunRequest) -> tuple[Recipe, RunConfig | None]:
    """Return the recipe of a new run, and the configuration of the run that it was taken from, if any."""
    base, origin = _neutral(request.fields) if request.recipe is None else _recipe(request.recipe)
    return base.override(**request.fields), origin


def _neutral(fields: Mapping[str, Any]) -> tuple[Recipe, None]:
    """Return the recipe for data of one's own, if what it cannot know is given.

    Raises:
        ConfigError: something is not; names it.
    """
    missing = [name for name in NEUTRAL_NEEDS if name not in fields]
    if missing:
        options = ", ".join(f"--{name}" for name in missing)
        raise ConfigError(
            "no recipe is given; choose one with --recipe (gloro-fast recipes lists them), or give --data, "
            f"--architecture and --epsilon ({options} {'is' if len(missing) == 1 else 'are'} missing)"
        )
    return neutral(*(fields[name] for name in NEUTRAL_NEEDS)), None


def _recipe(name: str) -> tuple[Recipe, RunConfig | None]:
    """Return a recipe by name, or the recipe and the whole configuration of a config.toml."""
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        config = read_config(path)
        return config.recipe, config
    return get(name), None


def _announce(what: str, data: DataSet, out: Path, device: str) -> None:
    group = current()
    if not group.is_main:
        return
    count = f"{len(data.train):,} training images{f'; {data.note}' if data.note else ''}"
    where = (
        f"{device}, {torch.get_num_threads()} threads{f' in each of {group.size} processes' if group.size > 1 else ''}"
    )
    typer.echo(f"{what} on {data.name} ({count}), {where}; run folder {out}", err=True)
