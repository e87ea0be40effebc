"""The work of ``gloro-fast reproduce``: runs that are trained, what is measured of them, the report."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import typer

from gloro_fast.cli.files import to_json, writing
from gloro_fast.cli.options import usable_device, use_threads
from gloro_fast.cli.runs import RunRequest, begin, go_on
from gloro_fast.data import DataSet, split_validation
from gloro_fast.errors import ConfigError
from gloro_fast.evaluate.curve import draw_vra
from gloro_fast.evaluate.tightness_picture import draw_tightness
from gloro_fast.files import atomic
from gloro_fast.recipes import Recipe, get
from gloro_fast.recipes.paper import ROWS, TIGHTNESS
from gloro_fast.reproduce.effort import Effort
from gloro_fast.reproduce.pictures import draw_examples, draw_histogram
from gloro_fast.reproduce.provenance import commit, machine
from gloro_fast.reproduce.report import markdown
from gloro_fast.reproduce.stages import Stages
from gloro_fast.train import check_unchanged, saved_config
from gloro_fast.train.run_folder import RunFolder

# Of the radius: what to try as the noise of randomized smoothing, and the training images held out to choose it by.
_NOISES = (0.4, 0.8, 1.6)
_HELD_OUT = 0.1


def noises_of(recipe: Recipe, fields: Mapping[str, Any]) -> list[float]:
    """Return the noises that randomized smoothing by a recipe is trained with, one run each.

    Args:
        recipe: with ``fields`` already in it.
        fields: that were asked for; its noise, if it is among them.
    """
    return [recipe.noise] if "noise" in fields else [round(share * recipe.epsilon, 3) for share in _NOISES]


def likeliest_noise(recipe: Recipe) -> float:
    """Return the noise to train with where only one can be tried."""
    return round(_NOISES[1] * recipe.epsilon, 3)


@dataclass(frozen=True)
class Reproduction:
    """One row to run: what was asked for.

    Attributes:
        name: the recipe.
        label: name of the report.
        request: what its runs have in common.
        command: what the report says it was made by.
        effort: how much to measure.
        quick: whether that is cut short.
        reports: the folder of reports.
        runs: the folder of runs.
        seed: of everything.
        resume: go on with what is there.
        overwrite: replace what is there.
        until: when all of it should be over, by ``time.monotonic``; None takes the time that it takes.
    """

    name: str
    label: str
    request: RunRequest
    command: str
    effort: Effort
    quick: bool
    reports: Path
    runs: Path
    seed: int
    resume: bool
    overwrite: bool
    until: float | None = None

    def run(self) -> Path:
        """Do all of it, and give the folder of the report.

        Raises:
            GloroFastError: recipe, data or folders cannot be used, or a certificate or bound turned out wrong.
            Interrupted: a signal came while training; all is saved.
        """
        recipe = get(self.name).override(**self.request.fields)
        use_threads(self.request.threads)
        data, _ = self.request.load_data(recipe.data, "")
        run, smoothing = self._trained_by_sampling(recipe, data) if recipe.noise else (self._trained(), None)
        stages = self._stages(run, data)
        result = json.loads(RunFolder(run).result.read_text(encoding="utf-8"))
        folder = self.reports.expanduser() / self.label
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        pictures = {"curves.png": "Training"}
        with writing(folder):
            shutil.copyfile(RunFolder(run).curves, folder / "curves.png")
        if smoothing is None:
            measured = self._measure(stages, data, folder, pictures)
        else:
            test = smoothing["test"]
            own = {**test, "method": f"smoothing, alpha {test['alpha']:g}"}
            measured = {"vra": own, "smoothing": smoothing}
        content = {
            "name": self.label,
            "recipe_epochs": get(self.name).epochs,
            # A data set may be given by its path, which is nobody else's business.
            "recipe": {**asdict(stages.config.recipe), "data": data.name},
            "command": self.command,
            "data": data.name,
            "data_note": data.note,
            "quick": self.quick,
            "seconds_per_epoch": result["seconds_per_epoch"],
            "seconds": result["seconds"],
            **measured,
            "pictures": pictures,
            "machine": machine(result["device"]),
            "commit": commit(),
            "seed": self.seed,
        }
        text = markdown(content, ROWS.get(self.name) or ROWS.get(self.label), TIGHTNESS.get(get(self.name).data))
        with writing(folder):
            atomic.write_text(folder / "report.json", to_json(content))
            atomic.write_text(folder / "README.md", text)
        return folder

    def _measure(self, stages: Stages, data: DataSet, folder: Path, pictures: dict[str, str]) -> dict[str, Any]:
        epsilon = stages.config.recipe.epsilon
        found = stages.evaluation()
        title, note = f"{self.label}, test split of {data.name}", data.note
        draw_vra(found, folder / "vra.png", epsilon=epsilon, title=title, note=note)
        draw_histogram(found, epsilon, folder / "radii.png", title=title, note=note)
        draw_examples(found, data, epsilon, folder / "examples.png")
        own = {
            "clean_accuracy": found.clean_accuracy,
            "vra": found.vra(epsilon),
            "lipschitz": found.lipschitz,
            "method": found.method,
            "radius_quartiles": found.radius_quartiles(),
            "images": len(found.labels),
        }
        measured: dict[str, Any] = {"vra": own, "power": stages.power()}
        if self.until is not None:
            # What takes as long as it takes goes first; it is read back below.
            stages.cost()
            stages.fit(self._left())
        measured["attacks"] = stages.attacks()
        bounds = stages.tightness()
        paper = TIGHTNESS.get(get(self.name).data)
        draw_tightness(bounds, folder / "tightness.png", paper=paper, title=title, note=note)
        pictures |= {
            "vra.png": "VRA against the radius",
            "radii.png": "Certified radii",
            "examples.png": "Certified and rejected images",
            "tightness.png": "Upper and lower bounds on the Lipschitz constant",
        }
        return {**measured, "tightness": bounds.to_dict(), "cost": stages.cost()}

    def _trained(self, folder: str = "", **fields: Any) -> Path:
        """Train a run to its end, or go on with it, unless that is done."""
        run = self.runs.expanduser() / self.label / folder
        request = replace(self.request, out=run, fields={**self.request.fields, **fields})
        there = RunFolder(run)
        if self.resume and there.finished:
            recipe = get(self.name).override(**request.fields)
            check_unchanged(saved_config(there), {"recipe": recipe, "seed": self.seed})
        elif self.resume and there.checkpoint.is_file():
            go_on(request).fit()
        else:
            if not self.overwrite and (there.finished or there.checkpoint.is_file()):
                raise ConfigError(f"{run} holds a run; --resume goes on from it, --overwrite replaces it")
            begin(request, overwrite=self.overwrite).fit()
        return run

    def _trained_by_sampling(self, recipe: Recipe, data: DataSet) -> tuple[Path, dict[str, Any]]:
        """Train with each noise, choose by VRA on images held out, and certify the test images with the best."""
        size = max(1, int(_HELD_OUT * len(data.train)))
        noises = noises_of(recipe, self.request.fields)
        _, held_out = split_validation(data.train, size, self.seed)
        runs = [self._trained(f"noise-{noise:g}", noise=noise, validation_size=size) for noise in noises]
        effort = self.effort
        if self.until is not None:
            first = self._stages(runs[0], data)
            first.fit_samples(self._left(), len(runs))
            effort = first.effort
        tried: list[tuple[dict[str, Any], Path]] = []
        for run in runs:
            stages = self._stages(run, data)
            found = stages.smoothing(held_out, "validation", effort.noise_images, effort.noise_samples)
            tried.append((found, run))
        # Of equals the least noise, which costs the least accuracy.
        best, run = max(tried, key=lambda trial: (trial[0]["vra"], -trial[0]["noise"]))
        test = self._stages(run, data).smoothing(
            data.test, "smoothing", effort.smoothing_images, effort.smoothing_samples
        )
        return run, {"test": test, "tried": [found for found, _ in tried], "chosen": best["noise"]}

    def _left(self) -> float:
        return math.inf if self.until is None else max(0.0, self.until - time.monotonic())

    def _stages(self, run: Path, data: DataSet) -> Stages:
        return Stages(run, data, self.effort, self.seed, usable_device(self.request.device), _tell)


def _tell(stage: str) -> None:
    typer.echo(f"measuring: {stage}", err=True)
