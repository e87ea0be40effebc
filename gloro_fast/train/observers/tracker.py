"""What goes to a tracker of experiments, whichever it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gloro_fast.files import atomic
from gloro_fast.files.tensor_file import saving
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.observers.base import Observer, RunStart
from gloro_fast.train.observers.inspection import inspect_net
from gloro_fast.train.result import Result
from gloro_fast.train.run_folder import RunFolder

# Both are by power iteration, from below; the radii are of images that are not tested on.
NORM, RADIUS = "spectral_norm_estimate", "radius_estimate"


class Tracker(Observer):
    """Gives every number of an epoch to a tracker, with the norms of the layers and the radii of some images.

    Derived classes say how: :meth:`open`, :meth:`log`, :meth:`end`.
    """

    def __init__(self) -> None:
        self._run: RunStart | None = None
        self._ended = False

    def open(self, run: RunStart) -> None:
        """Begin, or go on after the epochs that ``run`` has."""
        raise NotImplementedError

    def log(self, values: Mapping[str, float], radius: Tensor | None, epoch: int) -> None:
        """Give away numbers by name, and radii (N,), of an epoch."""
        raise NotImplementedError

    def end(self, finished: bool) -> None:
        """Say that training has ended, or stopped before its end."""
        raise NotImplementedError

    def on_start(self, run: RunStart) -> None:
        """Begin or go on."""
        self._run, self._ended = run, False
        self.open(run)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Give away every number of the epoch."""
        assert self._run is not None
        values = {name: value for name, value in metrics.to_dict().items() if isinstance(value, float)}
        found = inspect_net(self._run)
        values |= {f"{NORM}/{name}": value for name, value in found.norms.items()}
        self.log(values, found.radius, metrics.epoch)

    def on_end(self, result: Result) -> None:
        """Give away what the net is worth on the test split."""
        assert self._run is not None
        values = {
            "test/clean": result.clean_accuracy,
            "test/vra": result.vra,
            "test/lipschitz": result.lipschitz,
        }
        self.log(values, None, self._run.epochs)
        self._ended = True

    def close(self) -> None:
        """End, if there was a beginning."""
        if self._run is not None:
            self._run = None
            self.end(self._ended)


def settings(run: RunStart) -> dict[str, Any]:
    """Return what to say of the configuration: the recipe and the rest side by side, without paths of this machine."""
    fields = run.config.to_dict()
    recipe = fields.pop("recipe")
    del fields["data_dir"]
    return {**recipe, **fields}


def known_id(folder: RunFolder, tracker: str) -> str | None:
    """Return the name that a tracker has for the run in ``folder``; None for one that it was not told of."""
    try:
        found = json.loads(folder.tracked.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = found.get(tracker) if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def keep_id(folder: RunFolder, tracker: str, name: str) -> None:
    """Note the name that a tracker has for the run, for when it is resumed."""
    others = {other: kept for other in ("wandb", "mlflow") if (kept := known_id(folder, other)) is not None}
    with saving(folder.tracked):
        atomic.write_text(folder.tracked, json.dumps({**others, tracker: name}) + "\n")
