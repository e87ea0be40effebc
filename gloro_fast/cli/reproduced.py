"""The work of ``gloro-fast reproduce``: runs that are trained, what is measured of them, the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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
from gloro_fast.reproduce.report import gather, markdown
from gloro_fast.reproduce.stages import Stages
from gloro_fast.train import check_unchanged, saved_config
from gloro_fast.train.run_folder import RunFolder

# Of the radius: what to try as the noise of randomized smoothing, and the training images held out to choose it by.
_NOISES = (0.4, 0.8, 1.6)
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Reproduction:
    """One row to run: what was asked for.

    Attributes:
        name: the recipe.
        label: name of the report.
        fields: fields of the recipe to change.
        command: what the report says it was made by.
        effort: how much to measure.
        quick: whether that is cut short.
        reports: the folder of reports.
        runs: the folder of runs.
        seed: of everything.
        data_dir: where the data are.
        device: as torch names it.
        threads: CPU threads.
        download: whether torchvision may fetch the data.
        resume: go on with what is there.
        overwrite: replace what is there.
    """

    name: str
    label: str
    fields: Mapping[str, Any]
    command: str
    effort: Effort
    quick: bool
    reports: Path
    runs: Path
    seed: int
    data_dir: Path | None
    device: str | None
    threads: int | None
    download: bool
    resume: bool
    overwrite: bool

    def run(self) -> Path:
        """Do all of it, and give the folder of the report.

        Raises:
            GloroFastError: recipe, data or folders cannot be used, or a certificate or bound turned out wrong.
            Interrupted: a signal came while training; all is saved.
        """
        recipe = get(self.name).override(**self.fields)
        use_threads(self.threads)
        data, _ = self._request(self.runs, {}).load_data(recipe.data, "")
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
        content = gather(
            name=self.label,
            recipe=stages.config.recipe,
            command=self.command,
            data=data.name,
            data_note=data.note,
            result=result,
            measured=measured,
            pictures=pictures,
            machine=machine(result["device"]),
            commit=commit(),
            seed=self.seed,
            quick=self.quick,
        )
        text = markdown(content, ROWS.get(self.name), TIGHTNESS.get(get(self.name).data))
        with writing(folder):
            atomic.write_text(folder / "report.json", to_json(content))
            atomic.write_text(folder / "README.md", text)
        return folder

    def _measure(self, stages: Stages, data: DataSet, folder: Path, pictures: dict[str, str]) -> dict[str, Any]:
        epsilon = stages.config.recipe.epsilon
        found = stages.evaluation()
        title, note = f"{self.label}, test split of {data.name}", data.note
        draw_vra(found, folder / "vra.png", epsilon=epsilon, title=title, note=note)
        draw_histogram(found, epsilon, folder / "radii.png")
        draw_examples(found, data, epsilon, folder / "examples.png")
        own = {
            "clean_accuracy": found.clean_accuracy,
            "vra": found.vra(epsilon),
            "lipschitz": found.lipschitz,
            "method": found.method,
            "radius_quartiles": found.radius_quartiles(),
            "images": len(found.labels),
        }
        measured: dict[str, Any] = {"vra": own, "power": stages.power(), "attacks": stages.attacks()}
        bounds = stages.tightness()
        paper = TIGHTNESS.get(get(self.name).data)
        draw_tightness(bounds, folder / "tightness.png", paper=paper, title=title, note=note)
        pictures |= {
            "vra.png": "VRA against the radius",
            "radii.png": "Certified radii",
            "examples.png": "Certified and rejected images",
            "tightness.png": "Upper and lower bounds on the Lipschitz constant",
        }
        return {**measured, "tightness": bounds, "cost": stages.cost()}

    def _trained(self, folder: str = "", **fields: Any) -> Path:
        """Train a run to its end, or go on with it, unless that is done."""
        run = self.runs.expanduser() / self.label / folder
        request = self._request(run, {**self.fields, **fields})
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
        noises = [recipe.noise] if "noise" in self.fields else [round(share * recipe.epsilon, 3) for share in _NOISES]
        _, held_out = split_validation(data.train, size, self.seed)
        tried: list[tuple[dict[str, Any], Path]] = []
        for noise in noises:
            run = self._trained(f"noise-{noise:g}", noise=noise, validation_size=size)
            stages = self._stages(run, data)
            effort = self.effort
            found = stages.smoothing(held_out, "validation", effort.noise_images, effort.noise_samples)
            tried.append((found, run))
        # Of equals the least noise, which costs the least accuracy.
        best, run = max(tried, key=lambda trial: (trial[0]["vra"], -trial[0]["noise"]))
        effort = self.effort
        test = self._stages(run, data).smoothing(
            data.test, "smoothing", effort.smoothing_images, effort.smoothing_samples
        )
        return run, {"test": test, "tried": [found for found, _ in tried], "chosen": best["noise"]}

    def _stages(self, run: Path, data: DataSet) -> Stages:
        return Stages(run, data, self.effort, self.seed, usable_device(self.device), _tell)

    def _request(self, run: Path, fields: Mapping[str, Any]) -> RunRequest:
        return RunRequest(
            recipe=self.name,
            fields=fields,
            data_dir=self.data_dir,
            out=run,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
            download=self.download,
            tensorboard=False,
        )


def _tell(stage: str) -> None:
    typer.echo(f"measuring: {stage}", err=True)
