"""What is measured of a trained net, each once: a stage that is finished is read back, not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_fast.data import DataSet, Split, to_float
from gloro_fast.errors import CheckpointError
from gloro_fast.evaluate import Evaluation, evaluate
from gloro_fast.evaluate.attacked import attacked
from gloro_fast.evaluate.smoothing import smooth
from gloro_fast.evaluate.tightness import Tightness, tightness
from gloro_fast.files import atomic
from gloro_fast.progress import Progress
from gloro_fast.reproduce import budget, pace
from gloro_fast.reproduce.effort import Effort
from gloro_fast.train.cost import certification_cost, training_cost
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.trained_net import load_net

Tell = Callable[[str], None]
# Images to time attacks with: enough to keep two cores busy, and what the attacks take at a time.
_PROBED, _BATCH = 64, 512


class Stages:
    """The measurements of one run, kept in the folder ``measured`` of it as one JSON file a stage.

    A file counts only for the weights, settings and seed that it was made with; another is made anew.

    Args:
        run: the folder of a finished run.
        data: its data set.
        effort: how much work to do.
        seed: of the attacks and of what they start from.
        device: where to measure.
        tell: is told of every stage that begins.

    Attributes:
        net: the net, frozen by the method of ``effort``.
        effort: how much work to do.
        config: what decided the run.
    """

    def __init__(self, run: Path, data: DataSet, effort: Effort, seed: int, device: str, tell: Tell) -> None:
        self.net, self.config = load_net(run, device)
        self.net.freeze(effort.method)
        self._folder = run / "measured"
        self._weights = hashlib.sha256(RunFolder(run).model.read_bytes()).hexdigest()
        self.effort = effort
        self._data, self._seed, self._device, self._tell = data, seed, device, tell

    def fit(self, seconds: float) -> None:
        """Cut attacks and lower bounds to what takes no longer; what was decided for these weights stays so.

        Args:
            seconds: for all that is still to measure.
        """
        test, epsilon = self._data.test, self.config.recipe.epsilon
        on_cpu = torch.device(self._device).type == "cpu"

        def decide() -> dict[str, Any]:
            # A GPU takes as long for few images as for a batch.
            chosen = slice(_PROBED if on_cpu else _BATCH)
            images, labels = to_float(test.images[chosen]), test.labels[chosen]
            per_step = pace.seconds_per_attack_step(self.net, images, labels, epsilon)
            per_pair_step = pace.seconds_per_pair_step(self.net, images, self.effort.pairs)
            less = budget.attacks_within(self.effort, seconds, per_step)
            return asdict(budget.lower_bounds_within(less, seconds, per_pair_step, on_cpu))

        self.effort = Effort(**self._stage("effort", asdict(self.effort), decide))

    def fit_samples(self, seconds: float, noises: int) -> None:
        """Cut the images to certify by sampling likewise.

        Args:
            seconds: for all that is still to measure.
            noises: how many to choose from.
        """
        test, noise = self._data.test, self.config.recipe.noise

        def decide() -> dict[str, Any]:
            per_sample = pace.seconds_per_sample(self.net, to_float(test.images[:1]), test.labels[:1], noise)
            return asdict(budget.samples_within(self.effort, seconds, per_sample, noises))

        self.effort = Effort(**self._stage("effort", asdict(self.effort), decide))

    def evaluation(self) -> Evaluation:
        """Certify the test split by the net's rigorous bound."""
        found = self._stage(
            "evaluation", {"method": self.effort.method}, lambda: _numbers(evaluate(self.net, self._data.test))
        )
        return Evaluation(
            labels=self._data.test.labels,
            prediction=torch.tensor(found["prediction"]),
            radius=_radii(found["radius"]),
            lipschitz=found["lipschitz"],
            method=found["method"],
            logits=torch.empty(len(self._data.test), 0),
            executed=False,
            real_radius=_radii(found["radius"]),
        )

    def power(self) -> dict[str, Any]:
        """Return VRA and K by power iteration, as the paper has them: an estimate."""

        def measure() -> dict[str, Any]:
            net, _ = load_net(self._folder.parent, self._device)
            found = evaluate(net.freeze("power"), self._data.test)
            return {
                "vra": found.vra(self.config.recipe.epsilon),
                "lipschitz": found.lipschitz,
                "method": found.method,
            }

        return self._stage("power", {}, measure)

    def attacks(self) -> dict[str, Any]:
        """Attack the test images.

        Raises:
            SoundnessError: a certificate was broken.
        """
        effort, test = self.effort, self._data.test
        settings: dict[str, Any] = {
            "steps": effort.attack_steps,
            "restarts": effort.attack_restarts,
            "auto": effort.auto_attack,
        }

        def measure() -> dict[str, Any]:
            # Evenly spaced: a folder of images is in the order of its classes.
            count = min(effort.attack_images or len(test), len(test))
            chosen = torch.arange(count) * len(test) // count
            images, labels = to_float(test.images[chosen]), test.labels[chosen]
            found = attacked(self.net, images, labels, self.config.recipe.epsilon, seed=self._seed, **settings)
            found.check()
            return found.to_dict()

        return self._stage("attacks", {"method": effort.method, **settings, "spaced": effort.attack_images}, measure)

    def tightness(self) -> Tightness:
        """Bound the Lipschitz constant from below.

        Raises:
            SoundnessError: that comes out above the upper bound.
        """
        effort = self.effort
        numbers = {
            "pairs": effort.pairs,
            "global_steps": effort.global_steps,
            "local_steps": effort.local_steps,
        }
        images, epsilon = to_float(self._data.test.images), self.config.recipe.epsilon
        found = self._stage(
            "tightness",
            {"method": effort.method, **numbers},
            lambda: tightness(self.net, images, epsilon, seed=self._seed, **numbers).to_dict(),
        )
        return Tightness.from_dict(found)

    def cost(self) -> dict[str, Any]:
        """Time training beside standard training, and the certification of the test split."""
        rounds = self.effort.cost_rounds

        def measure() -> dict[str, Any]:
            training = training_cost(self.config.recipe, self._data, self._device, rounds)
            return {
                "training": {name: vars(cost) for name, cost in training.items()},
                "certification": certification_cost(self.net, self._data.test).to_dict(),
            }

        settings = {"method": self.effort.method, "rounds": rounds, "threads": torch.get_num_threads()}
        return self._stage("cost", settings, measure)

    def smoothing(self, split: Split, name: str, images: int, samples: int) -> dict[str, Any]:
        """Certify the first images of a split by sampling, with the noise of the run's training.

        Args:
            split: the test split, or the images held out to choose the noise by.
            name: of the stage.
            images: how many.
            samples: noisy copies of each.
        """
        recipe = self.config.recipe

        def measure() -> dict[str, Any]:
            chosen = to_float(split.images[:images])
            found = smooth(self.net, chosen, split.labels[:images], recipe.noise, samples=samples, seed=self._seed)
            return {
                "noise": recipe.noise,
                "images": len(chosen),
                "samples": samples,
                "alpha": found.alpha,
                "clean_accuracy": found.clean_accuracy,
                "abstained": found.abstained,
                "vra": found.vra(recipe.epsilon),
                "seconds_per_image": found.seconds_per_image,
            }

        return self._stage(name, {"images": images, "samples": samples}, measure)

    def _stage(self, name: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self._folder / f"{name}.json"
        made_with = {"weights": self._weights, "seed": self._seed, "settings": settings}
        if path.is_file():
            kept = _read(path)
            if kept.get("made_with") == made_with:
                found: dict[str, Any] = kept["found"]
                return found
        self._tell(name)
        with Progress(name):
            found = measure()
        self._folder.mkdir(exist_ok=True)
        # Infinite radii are written as JSON's readers in Python take them; the files are read by this module only.
        text = json.dumps({"made_with": made_with, "found": found})
        atomic.write_text(path, text + "\n")
        result: dict[str, Any] = json.loads(text)["found"]
        return result


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it, and it is measured anew") from None
    return content if isinstance(content, dict) else {}


def _numbers(found: Evaluation) -> dict[str, Any]:
    return {
        "prediction": found.prediction.tolist(),
        "radius": found.radius.tolist(),
        "lipschitz": found.lipschitz,
        "method": found.method,
    }


def _radii(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
