"""What a finished run is worth: the contents of result.json."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import statistics
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from gloro_fast._version import __version__
from gloro_fast.data import DataSet, Sources
from gloro_fast.evaluate.accuracy import certified_batches, collect
from gloro_fast.native import extension
from gloro_fast.progress import tracked
from gloro_fast.train.config import RunConfig
from gloro_fast.train.state import TrainingState


@dataclass(frozen=True)
class Result:
    """What a finished run is worth, measured once on the test split.

    Attributes:
        recipe: name of the recipe.
        data: name of the data set.
        data_note: what to print beside the numbers.
        architecture: name of the architecture.
        clean_accuracy: share of the test images classified correctly.
        vra: share of them also certified at ``epsilon``.
        epsilon: the certified l2 radius, pixels in [0, 1].
        radius_quartiles: lower quartile, median and upper quartile of the certified radius over all test images,
            wrongly classified ones at 0.
        lipschitz: K of everything before the last layer.
        method: the method that found K, with "(estimate)" where it is none but that.
        test_images: how many images that rests on.
        epochs: robust epochs.
        warmup_epochs: epochs of plain cross entropy before them.
        selected_epoch: number of the epoch whose weights are kept, from 1, warm-up counted.
        validation_vra: VRA of that epoch on the validation split, by the estimate; None without one.
        seconds: duration of the whole run, interruptions left out.
        seconds_per_epoch: median training time of an epoch, without validation: a run that was suspended for a while
            says the same.
        seed: of the run.
        device: where it ran.
        threads: CPU threads of torch.
        versions: of this package, torch, numpy and Python, and the kernels and vector instructions in use.
        graphs: "captured" where the steps were replays of CUDA graphs, else why they were not.
        tf32: for which operations of training TF32 was allowed; certificates have none.
    """

    recipe: str
    data: str
    data_note: str
    architecture: str
    clean_accuracy: float
    vra: float
    epsilon: float
    radius_quartiles: tuple[float, float, float]
    lipschitz: float
    method: str
    test_images: int
    epochs: int
    warmup_epochs: int
    selected_epoch: int
    validation_vra: float | None
    seconds: float
    seconds_per_epoch: float
    seed: int
    device: str
    threads: int
    versions: dict[str, str]
    graphs: str
    tf32: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can say them; a value that is not finite becomes None."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    def to_json(self) -> str:
        """Return the text of result.json."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def measure(
    state: TrainingState, config: RunConfig, data: DataSet | Sources, seconds: float, graphs: str, tf32: str
) -> Result:
    """Certify the test split with the weights that the net now has, and put the result together.

    Args:
        state: a state at the end of training, its net with the selected weights and the certified epsilon.
        config: the configuration.
        data: the data set.
        seconds: duration of the run.
        graphs: what to say of them.
        tf32: likewise.
    """
    recipe, best = config.recipe, state.best
    batches = certified_batches(state.net, data.test)
    batches = tracked(batches, len(data.test), "certifying the test split", lambda batch: len(batch[0]))
    found = collect(batches)
    return Result(
        recipe=recipe.name,
        data=data.name,
        data_note=config.data_note,
        architecture=recipe.architecture,
        clean_accuracy=found.clean_accuracy,
        vra=found.vra(recipe.epsilon),
        epsilon=recipe.epsilon,
        radius_quartiles=found.radius_quartiles(),
        lipschitz=found.lipschitz,
        method=found.method,
        test_images=len(found.labels),
        epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        selected_epoch=state.epoch if best is None else best.epoch,
        validation_vra=None if best is None else best.vra,
        seconds=round(seconds, 3),
        seconds_per_epoch=round(statistics.median(row.seconds for row in state.rows), 4),
        seed=config.seed,
        device=config.device,
        threads=config.threads,
        versions=versions(),
        graphs=graphs,
        tf32=tf32,
    )


def versions() -> dict[str, str]:
    """Return what the last bits of a result depend on, besides device and threads.

    Returns:
        The versions of this package, torch, numpy and Python; ``extension``, the vector instructions of its
        kernels (avx512, avx2 or portable) and their compiler, or "not loaded"; ``cpu``, those that torch uses
        and who made the processor, which decides by which library dense layers are multiplied.
    """
    facts = extension.facts()
    built = f"{facts.get('simd', 'loaded')}, {facts.get('compiler', 'unknown compiler')}"
    return {
        "gloro_fast": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "extension": built if extension.available() else "not loaded",
        "cpu": f"{torch.backends.cpu.get_cpu_capability()} {extension.processor_vendor()}".strip(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
