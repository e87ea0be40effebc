"""The folder of a training run: which files it holds, and the trained net that is in it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.files import atomic, tensor_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gloro_fast.net.gloro_net import GloRoNet
    from gloro_fast.train.config import RunConfig


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
        return [self.result, self.model, self.checkpoint, self.metrics, self.curves, self.config]

    def _leftovers(self) -> list[Path]:
        return [left for file in self._files() for left in atomic.leftovers(file)]

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"cannot use run folder {self.path} ({error.strerror}); choose another --out") from None


def load_net(run: Path | str, device: str = "cpu") -> tuple[GloRoNet, RunConfig]:
    """Load the trained net of a finished run.

    Args:
        run: the run folder.
        device: where the net is wanted.

    Returns:
        The net in evaluation mode, its epsilon the certified one, and the configuration of the run, both as the
        model's own document has them; of config.toml only ``data_dir`` counts, since data may move.

    Raises:
        CheckpointError: the folder is missing, the run is not finished, or the model is truncated or damaged.
        ConfigError: config.toml cannot be read or is not that of the model, or there is no such device.
    """
    # Here, since gloro_fast.train itself stands on this module.
    from gloro_fast.train.build import build_net
    from gloro_fast.train.config import read_config_of

    folder = RunFolder(run)
    if not folder.path.is_dir():
        raise CheckpointError(f"there is no run folder {folder.path}; check the path")
    if not folder.finished:
        if folder.checkpoint.is_file():
            raise CheckpointError(f"run {folder.path} is not finished; finish it with: train --resume")
        raise CheckpointError(f"{folder.path} holds no finished run ({folder.result.name} is missing)")
    tensors, document = tensor_file.read(folder.model, "model")
    config = read_config_of(folder.model, document, folder.config)
    net = build_net(config, device)
    load_tensors(net, tensors, f"{folder.model} does not fit architecture {config.recipe.architecture}")
    net.epsilon = config.recipe.epsilon
    net.eval()
    return net, config


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], complaint: str) -> None:
    """Copy ``tensors`` into all parameters and buffers of ``module``, or into none.

    Args:
        module: where to.
        tensors: one for each name in the module's ``state_dict``, of the same shape and dtype.
        complaint: how an error message begins.

    Raises:
        CheckpointError: names the first tensor that does not fit.
    """
    expected = module.state_dict()
    for name, own in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{complaint}: it lacks {name}, {_kind(own)}")
        if _kind(tensors[name]) != _kind(own):
            raise CheckpointError(f"{complaint}: {name} is {_kind(tensors[name])} instead of {_kind(own)}")
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{complaint}: it has {name}, which the net has not")
    with torch.no_grad():
        module.load_state_dict(dict(tensors))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
