"""The metrics as TensorBoard shows them; only if asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gloro_fast.errors import ConfigError
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.observers.base import Observer, RunStart

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Observer):
    """Writes event files into the folder ``tensorboard`` of the run, one step an epoch.

    Raises:
        ConfigError: on construction, when TensorBoard cannot be imported.
    """

    def __init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard cannot be imported ({error}); install it with: pip install tensorboard"
            ) from None
        self._writer: SummaryWriter | None = None

    def on_start(self, run: RunStart) -> None:
        """Open an event file that takes the place of what was written after the checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.folder.tensorboard, purge_step=len(run.rows) + 1)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Write every number of the epoch."""
        assert self._writer is not None
        for name, value in metrics.to_dict().items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, metrics.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
