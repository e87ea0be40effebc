"""Reading weights that Keras has saved as HDF5, by itself or in a ``.gloronet`` archive of the paper's authors.

A file of Keras has, at its top or in the group ``model_weights``, a group for each layer; attributes name the layers
and the weights of each in order. Nothing is unpickled, and nothing is unpacked to disk.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gloro_fast.errors import CheckpointError, ConfigError, GloroFastError


@dataclass(frozen=True)
class KerasLayer:
    """A layer with weights.

    Attributes:
        name: its name in the file.
        weights: HDF5 data sets by the last part of their names, such as ``"kernel"`` and ``"bias"``; they can be read
            while the file is open.
    """

    name: str
    weights: dict[str, Any]

    def shape(self, weight: str) -> tuple[int, ...] | None:
        """Return the shape of a weight; None if there is none of that name."""
        return tuple(self.weights[weight].shape) if weight in self.weights else None

    def read(self, weight: str) -> NDArray[np.float32]:
        """Read a weight as float32.

        Raises:
            CheckpointError: it holds other things than numbers, or NaN, or infinities.
        """
        stored = self.weights[weight]
        if stored.dtype.kind != "f":
            raise CheckpointError(f"the {weight} of layer {self.name} is of type {stored.dtype}; floats are needed")
        values = np.asarray(stored[()], dtype=np.float32)
        if not np.isfinite(values).all():
            raise CheckpointError(f"the {weight} of layer {self.name} has NaN or infinite entries")
        return values


@dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    Attributes:
        layers: those with weights, in order.
        config: of every layer, with or without weights: its class and settings, as Keras's JSON has them; empty where
            only weights were saved.
        epsilon: the l2 radius of a ``.gloronet`` archive.
    """

    layers: tuple[KerasLayer, ...]
    config: tuple[tuple[str, dict[str, Any]], ...]
    epsilon: float | None


@contextmanager
def open_keras(path: Path) -> Iterator[KerasFile]:
    """Open what Keras's ``model.save("x.h5")`` or ``save_weights("x.h5")`` wrote, or a ``.gloronet`` archive.

    Raises:
        CheckpointError: there is no such file, it is damaged, or of another layout; also if reading fails later on.
        ConfigError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(f"h5py cannot be imported ({error}); install it with: pip install h5py") from None
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    try:
        source, settings = _unpacked(path)
        with h5py.File(source, "r") as file:
            root = file.get("model_weights", file)
            if not any(name.startswith("layer_names") for name in root.attrs):
                raise CheckpointError(
                    f"{path} has no layer_names, which Keras writes beside weights; save it with model.save('f.h5')"
                )
            epsilon = settings.get("epsilon")
            yield KerasFile(_layers(root), _config(file), None if epsilon is None else float(epsilon))
    except GloroFastError:
        raise
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        tarfile.TarError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no file of Keras ({reason}); use a copy of it") from None


def _unpacked(path: Path) -> tuple[Path | io.BytesIO, dict[str, Any]]:
    """Return the HDF5 file and the settings beside it; an archive is read in memory."""
    if not tarfile.is_tarfile(path):
        return path, {}
    weights, settings = None, {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and member.name.endswith(".h5"):
                weights = io.BytesIO(content.read())
            elif content is not None and member.name.endswith(".json"):
                settings = json.load(content)
    if weights is None:
        raise CheckpointError(f"{path} is an archive without a .h5 file; give a .gloronet or .h5 file")
    return weights, settings


def _layers(root: Any) -> tuple[KerasLayer, ...]:
    found = []
    for name in _names(root, "layer_names"):
        group = root[name]
        # A model within the model has the weights of several layers in one group.
        parts: dict[str, dict[str, Any]] = {}
        for full in _names(group, "weight_names"):
            owner, _, short = full.rpartition("/")
            parts.setdefault(owner, {})[short.split(":")[0]] = group[full]
        single = len(parts) == 1
        found += [KerasLayer(name if single else owner, weights) for owner, weights in parts.items()]
    return tuple(found)


def _names(group: Any, attribute: str) -> list[str]:
    """Read a list of names; Keras cuts a long one into attributes with numbers at their ends."""
    chunks = [group.attrs[attribute]] if attribute in group.attrs else []
    while f"{attribute}{len(chunks)}" in group.attrs:
        chunks.append(group.attrs[f"{attribute}{len(chunks)}"])
    return [name.decode() if isinstance(name, bytes) else str(name) for chunk in chunks for name in chunk]


def _config(file: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
    text = file.attrs.get("model_config")
    if text is None:
        return ()
    config = json.loads(text)["config"]
    layers = config if isinstance(config, list) else config["layers"]
    # Classes of one's own may be registered under a package: "gloro>MinMax".
    return tuple((str(layer["class_name"]).rpartition(">")[2], layer["config"]) for layer in layers)
