"""The metrics as TensorBoard shows them; only if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.train.observers.base import RunStart
from gloro_fast.train.observers.tracker import RADIUS, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Writes event files into the folder ``tensorboard`` of the run, one step an epoch.

    Raises:
        ConfigError: on construction, when TensorBoard cannot be imported.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard cannot be imported ({error}); install it with: pip install tensorboard"
            ) from None
        self._writer: SummaryWriter | None = None

    def open(self, run: RunStart) -> None:
        """Open an event file that takes the place of what was written after the checkpoint."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(run.folder.tensorboard, purge_step=len(run.rows) + 1)

    def log(self, values: Mapping[str, float], radius: Tensor | None, epoch: int) -> None:
        """Write them, the radii as a histogram."""
        assert self._writer is not None
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        # It refuses infinite ones.
        if radius is not None and bool((finite := radius.isfinite()).any()):
            self._writer.add_histogram(RADIUS, radius[finite], epoch)
        self._writer.flush()

    def end(self, finished: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
