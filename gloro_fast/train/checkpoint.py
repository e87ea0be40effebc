"""The checkpoint of a run: its whole state and configuration in one safetensors file."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloro_fast.data import DataSet, Sources
from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.files import tensor_file
from gloro_fast.train.config import RunConfig, read_config, read_config_of, warn_threads
from gloro_fast.train.result import versions
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.state import TrainingState


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        config: the configuration of the run.
        data_sha256: digest of its data set.
        versions: what it was written with.
        tensors: for ``TrainingState.restore``.
        document: for the same.
    """

    config: RunConfig
    data_sha256: str
    versions: dict[str, str]
    tensors: dict[str, Tensor]
    document: dict[str, Any]


class Writer:
    """Writes the checkpoints of a run, atomically and one after the other.

    Args:
        folder: whose.
        beside: write on a thread, while the next epoch trains on a GPU: hashing and writing the 50 MB of a larger net
            takes a third of an epoch there. The file is then behind by an epoch at most.
    """

    def __init__(self, folder: RunFolder, beside: bool) -> None:
        self._folder, self._beside = folder, beside
        self._running: Future[None] | None = None

    def save(self, state: TrainingState, config: RunConfig, data_sha256: str, at_once: bool = True) -> None:
        """Write the checkpoint.

        Args:
            state: what to save, as it is now.
            config: the configuration.
            data_sha256: digest of the data set.
            at_once: have it written on return, on whatever thread.

        Raises:
            CheckpointError: the file system refuses, this or the last time; the checkpoint before survives.
        """
        self.wait()
        document = {
            "config": config.to_dict(),
            "data_sha256": data_sha256,
            "versions": versions(),
            "state": state.document(),
        }
        tensors = state.tensors()
        if at_once or not self._beside:
            tensor_file.write(self._folder.checkpoint, "checkpoint", tensors, document)
            return
        # Training goes on and changes them.
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        executor = ThreadPoolExecutor(1, "checkpoint")
        self._running = executor.submit(tensor_file.write, self._folder.checkpoint, "checkpoint", copies, document)
        executor.shutdown(wait=False)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            CheckpointError: it could not be.
        """
        if self._running is not None:
            self._running.exception()  # Interrupted here, it is waited for again, before the folder is given up.
            running, self._running = self._running, None
            running.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What ended the block is not hidden by what the disk refuses.
        with suppress(CheckpointError) if kind is not None else nullcontext():
            self.wait()


def saved_config(folder: RunFolder) -> RunConfig:
    """Return the configuration of a run, from its checkpoint where it was killed before config.toml was written.

    Raises:
        CheckpointError: there is neither, or the checkpoint cannot be used.
        ConfigError: config.toml cannot be used.
    """
    if folder.config.exists() or not folder.checkpoint.is_file():
        return read_config(folder.config)
    return _read(folder).config


def load(folder: RunFolder, data: DataSet | Sources, device: str | None = None) -> Checkpoint:
    """Read the checkpoint of a run that is to go on, and check that it can.

    Args:
        folder: whose.
        data: the data set to go on with.
        device: where to go on; None is where it began.

    Returns:
        The checkpoint, the device of its configuration changed where another was asked for.

    Raises:
        ConfigError: the run is already finished, or config.toml was changed since it began.
        CheckpointError: there is none, or it is damaged, of another format version or of other data.

    Warns:
        UserWarning: other versions or kernels, another number of threads or device: the last bits will differ.
    """
    if not folder.path.is_dir():
        raise CheckpointError(f"there is no run folder {folder.path} to go on with; check --out")
    if folder.finished:
        raise ConfigError(f"run {folder.path} is already finished; choose another --out for a new one")
    if not folder.checkpoint.is_file():
        raise CheckpointError(f"{folder.path} holds no checkpoint to go on with; start it anew with --overwrite")
    found = _read(folder)
    config = found.config
    _warn_versions(found.versions)
    warn_threads(config.threads, torch.get_num_threads())
    if digest(data) != found.data_sha256:
        raise CheckpointError(f"{data.name} is not the data that run {folder.path} began with; give it the same")
    if device is None or device == config.device:
        return found
    warnings.warn(
        f"the run began on {config.device} and goes on on {device}: the result will differ in its last bits",
        stacklevel=3,
    )
    return dataclasses.replace(found, config=dataclasses.replace(config, device=device))


def _read(folder: RunFolder) -> Checkpoint:
    tensors, document = tensor_file.read(folder.checkpoint, "checkpoint")
    config = read_config_of(folder.checkpoint, document, folder.config)
    try:
        return Checkpoint(config, document["data_sha256"], document["versions"], tensors, document["state"])
    except KeyError as error:
        raise CheckpointError(f"{folder.checkpoint} cannot be used ({error}); train the run again") from None


def _warn_versions(saved: Mapping[str, str]) -> None:
    """Warn if anything that the bits of a result depend on is not what the checkpoint was written with."""
    now = versions()
    changes = [
        f"{name} {saved.get(name, 'unknown')} (now {now.get(name, 'none')})"
        for name in {**now, **saved}
        if saved.get(name) != now.get(name)
    ]
    if changes:
        warnings.warn(
            f"the checkpoint was written with {', '.join(changes)}: the result may differ in its last bits",
            stacklevel=4,
        )


def digest(data: DataSet | Sources) -> str:
    """Return the SHA-256 of the images and labels of both splits, or some of them: a run knows its data again by it."""
    sha = hashlib.sha256()
    if isinstance(data, Sources):
        sha.update(data.train.digest() + data.test.digest())
        return sha.hexdigest()
    for split in (data.train, data.test):
        for tensor in (split.images, split.labels):
            sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.cpu().contiguous().numpy().data)
    return sha.hexdigest()
