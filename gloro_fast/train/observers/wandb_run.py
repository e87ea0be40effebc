"""The metrics as Weights & Biases shows them; only if asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.train.observers.base import RunStart
from gloro_fast.train.observers.tracker import RADIUS, Tracker, keep_id, known_id, settings


class WeightsAndBiases(Tracker):
    """Tells Weights & Biases of a run, one step an epoch; a resumed run goes on under its name there.

    Where to and how is for its own settings: WANDB_PROJECT (gloro-fast if unset), WANDB_MODE=offline and so on.

    Raises:
        ConfigError: on construction, when it cannot be imported; at the start of training, when it refuses the run.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(f"wandb cannot be imported ({error}); pip install 'gloro-fast[wandb]'") from None
        self._wandb: Any = wandb
        self._tracked: Any = None

    def open(self, run: RunStart) -> None:
        """Begin, or go on."""
        try:
            self._tracked = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "gloro-fast"),
                dir=str(run.folder.path),
                id=known_id(run.folder, "wandb"),
                resume="allow",
                name=run.config.recipe.name,
                config=settings(run),
            )
        except self._wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases refuses the run ({error}); set WANDB_MODE=offline, or leave --log wandb out"
            ) from None
        keep_id(run.folder, "wandb", self._tracked.id)

    def log(self, values: Mapping[str, float], radius: Tensor | None, epoch: int) -> None:
        """Log them, the radii as a histogram."""
        data: dict[str, Any] = dict(values)
        if radius is not None and bool((finite := radius.isfinite()).any()):
            data[RADIUS] = self._wandb.Histogram(radius[finite].cpu().numpy())
        self._tracked.log(data, step=epoch)

    def end(self, finished: bool) -> None:
        """Finish the run there."""
        if self._tracked is not None:
            self._tracked.finish(exit_code=0 if finished else 1)
