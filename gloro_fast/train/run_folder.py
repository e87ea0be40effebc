"""The folder of a training run: which files it holds."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from gloro_fast.errors import ConfigError
from gloro_fast.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator


class RunFolder:
    """The files of a run by name; none of them need exist.

    Attributes:
        path: the folder.
        model: weights and iterates of the selected epoch, written when training ends.
        config: what decides the run (TOML).
        metrics: one row an epoch (CSV).
        curves: the same as a picture (PNG).
        result: what the net is worth (JSON), written last: a run is finished when this exists.
        checkpoint: everything needed to go on with training.
        tensorboard: the folder of TensorBoard's event files, where they were asked for.
        tracked: by which names trackers of experiments know the run (JSON), where they were told of it.
        lock: what a process that trains here holds; empty, and left behind.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        self.model = self.path / "model.safetensors"
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.csv"
        self.curves = self.path / "curves.png"
        self.result = self.path / "result.json"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.tensorboard = self.path / "tensorboard"
        self.tracked = self.path / "tracked.json"
        self.lock = self.path / ".lock"

    @property
    def finished(self) -> bool:
        """Whether training has ended and the result is there."""
        return self.result.is_file()

    def check_free(self) -> None:
        """Refuse a folder that already holds something besides what a killed process left half-written.

        Raises:
            ConfigError: it does, or it is a file.
        """
        if self.path.is_dir():
            if set(self.path.iterdir()) - {self.lock, *self._leftovers()}:
                raise ConfigError(
                    f"run folder {self.path} exists; choose another --out, or --resume it, or --overwrite"
                )
        elif self.path.exists():
            raise ConfigError(f"{self.path} is a file, not a folder; choose another --out")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the folder, which is made if need be; the lock ends with the process.

        Two that went on with one run would each overwrite what the other has saved.

        Raises:
            ConfigError: another process, or another trainer of this one, has it, or it cannot be made or written to.
        """
        with self._used():
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.lock, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise ConfigError(
                    f"run folder {self.path} is in use by another process; wait until it ends, or choose another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def create(self) -> None:
        """Make the folder and empty it of an earlier run's files; files of other names stay.

        Raises:
            ConfigError: the folder cannot be made or written to.
        """
        with self._used():
            self.path.mkdir(parents=True, exist_ok=True)
            for file in [*self._files(), *self.tensorboard.glob("events.out.tfevents.*"), *self._leftovers()]:
                file.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed while it wrote one of the run's files has left half-written.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        with self._used():
            for file in self._leftovers():
                file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        # The result goes first: without it, what is left counts as unfinished.
        return [self.result, self.model, self.checkpoint, self.metrics, self.curves, self.tracked, self.config]

    def _leftovers(self) -> list[Path]:
        return [left for file in self._files() for left in atomic.leftovers(file)]

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"cannot use run folder {self.path} ({error.strerror}); choose another --out") from None
