"""The metrics as MLflow shows them; only if asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.train.observers.base import RunStart
from gloro_fast.train.observers.tracker import RADIUS, Tracker, keep_id, known_id, settings

# It has no histograms.
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


class MLflow(Tracker):
    """Tells MLflow of a run, one step an epoch; a resumed run goes on under its name there.

    Where to is for its own settings: MLFLOW_TRACKING_URI, and MLFLOW_EXPERIMENT_NAME (gloro-fast if unset).

    Raises:
        ConfigError: on construction, when it cannot be imported; at the start of training, when it refuses the run.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import mlflow
        except ImportError as error:
            raise ConfigError(f"mlflow cannot be imported ({error}); pip install 'gloro-fast[mlflow]'") from None
        self._mlflow: Any = mlflow
        self._client: Any = None
        self._id = ""

    def open(self, run: RunStart) -> None:
        """Begin, or go on."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "gloro-fast")
        known = known_id(run.folder, "mlflow")
        try:
            client = self._mlflow.MlflowClient()
            if known is None:
                experiment = client.get_experiment_by_name(name)
                place = client.create_experiment(name) if experiment is None else experiment.experiment_id
                self._id = client.create_run(place, run_name=run.config.recipe.name).info.run_id
                params = [self._mlflow.entities.Param(key, str(value)) for key, value in settings(run).items()]
                client.log_batch(self._id, params=params)
            else:
                client.update_run(known, status="RUNNING")
                self._id = known
        except (self._mlflow.MlflowException, OSError) as error:
            raise ConfigError(
                f"MLflow refuses the run ({error}); check MLFLOW_TRACKING_URI, or leave --log mlflow out"
            ) from None
        self._client = client
        keep_id(run.folder, "mlflow", self._id)

    def log(self, values: Mapping[str, float], radius: Tensor | None, epoch: int) -> None:
        """Log them, of the radii some quantiles."""
        found = dict(values)
        if radius is not None:
            levels = torch.tensor(_QUANTILES, dtype=radius.dtype, device=radius.device)
            quantiles = torch.quantile(radius, levels, interpolation="lower").tolist()
            found |= {f"{RADIUS}/{100 * level:.0f}": value for level, value in zip(_QUANTILES, quantiles, strict=True)}
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(key, value, now, epoch) for key, value in found.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, finished: bool) -> None:
        """Finish the run there."""
        if self._client is not None:
            self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
