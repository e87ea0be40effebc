"""Weights trained with Keras, the paper's authors' for example, brought into the architectures of this package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gloro_fast.errors import CheckpointError, ConfigError, nearest
from gloro_fast.models import architectures
from gloro_fast.models.keras_file import KerasFile, KerasLayer, open_keras

_ACTIVATIONS = {"MinMax": "minmax", "ReLU": "relu", "relu": "relu"}
_WITHOUT_EFFECT = ("InputLayer", "Flatten", "Dropout")


@dataclass(frozen=True)
class ImportedNet:
    """A classifier with weights from a file.

    Attributes:
        module: from (B, C, H, W) to logits (B, m).
        activation: ``"minmax"`` or ``"relu"``.
        input_shape: (C, H, W).
        num_classes: m.
        epsilon: the l2 radius that the file names, if any.
    """

    module: nn.Sequential
    activation: str
    input_shape: tuple[int, int, int]
    num_classes: int
    epsilon: float | None


def load_keras(
    path: Path | str,
    architecture: str,
    *,
    activation: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> ImportedNet:
    """Build an architecture with the weights of a Keras file.

    Kernels go from (height, width, in, out) to (out, in, height, width), dense ones from (in, out) to (out, in); the
    inputs of the first dense layer from the order (height, width, channel), in which Keras flattens, to (channel,
    height, width). Values keep their bits; a layer without bias gets zeros.

    Args:
        path: of a .h5 file, with or without the model's configuration, or of a .gloronet archive.
        architecture: name of one of the paper's.
        activation: ``"minmax"`` or ``"relu"``; as the file's configuration says by default, minmax without one.
        input_shape: (C, H, W) of an image; as the file's configuration says by default.

    Raises:
        CheckpointError: the file is missing or damaged, or its layers are not those of the architecture.
        ConfigError: an unknown architecture, no input shape, or h5py is missing.
    """
    if architecture not in architectures.ARCHITECTURES:
        raise ConfigError(
            f"there is no architecture {architecture!r} for Keras weights"
            f"{nearest(architecture, architectures.ARCHITECTURES)}"
        )
    with open_keras(Path(path)) as file:
        try:
            return _imported(file, architecture, activation, input_shape)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None


def _imported(
    file: KerasFile, architecture: str, activation: str | None, input_shape: tuple[int, int, int] | None
) -> ImportedNet:
    activation = _activation(file, activation)
    shape = input_shape or _input_shape(file)
    classes = (file.layers[-1].shape("kernel") or (0,))[-1] if file.layers else 0
    if classes < 2:
        raise CheckpointError("its last layer is no dense layer of at least 2 units; give a classifier")
    with torch.random.fork_rng(devices=[]):
        module = architectures.build(architecture, activation, input_shape=shape, num_classes=classes)
    targets = list(_targets(module, shape))
    if len(targets) != len(file.layers):
        names = ", ".join(layer.name for layer in file.layers)
        raise CheckpointError(
            f"it has {len(file.layers)} layers with weights ({names}), {architecture} has {len(targets)}; choose "
            "another architecture"
        )
    settings = {config.get("name"): config for _, config in file.config}
    for (target, image), source in zip(targets, file.layers, strict=True):
        _check_settings(target, source, settings.get(source.name, {}))
        _fill(target, image, source, architecture)
    return ImportedNet(module, activation, shape, classes, file.epsilon)


def _targets(
    module: nn.Sequential, input_shape: tuple[int, int, int]
) -> Iterator[tuple[nn.Conv2d | nn.Linear, tuple[int, ...]]]:
    """List the layers with weights; with the one after Flatten the shape of what is flattened, else ()."""
    x = torch.zeros(1, *input_shape)
    image: tuple[int, ...] = ()
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, nn.Flatten):
                image = tuple(x.shape[1:])
            if isinstance(layer, nn.Conv2d | nn.Linear):
                yield layer, image
                image = ()
            x = layer(x)


def _fill(target: nn.Conv2d | nn.Linear, image: tuple[int, ...], source: KerasLayer, architecture: str) -> None:
    """Copy kernel and bias, their shapes checked before anything is read."""
    out, incoming, *sides = target.weight.shape
    expected = {"kernel": (*sides, incoming, out), "bias": (out,)}
    for weight in source.weights:
        if weight not in expected:
            raise CheckpointError(f"layer {source.name} has a {weight}, which no layer of {architecture} has")
    for weight, shape in expected.items():
        found = source.shape(weight)
        if found != shape and not (weight == "bias" and found is None):
            has = "no kernel" if found is None else f"a {weight} {found}"
            raise CheckpointError(
                f"layer {source.name} has {has}, {architecture} needs {shape}; choose another architecture or input "
                "shape"
            )
    kernel = source.read("kernel")
    bias = source.read("bias") if "bias" in source.weights else np.zeros(out, dtype=np.float32)
    assert target.bias is not None
    with torch.no_grad():
        target.weight.copy_(torch.from_numpy(np.ascontiguousarray(_transposed(kernel, image))))
        target.bias.copy_(torch.from_numpy(bias))


def _transposed(kernel: NDArray[np.float32], image: tuple[int, ...]) -> NDArray[np.float32]:
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if not image:
        return kernel.T
    # From pixels with their channels to channels with their pixels.
    return kernel.reshape(-1, image[0], kernel.shape[1]).transpose(2, 1, 0).reshape(kernel.shape[1], -1)


def _activation(file: KerasFile, asked: str | None) -> str:
    """Find the one activation of the configuration, and check that nothing else is in the net."""
    found = set()
    for kind, config in file.config:
        name = config.get("name", kind)
        if config.get("data_format") == "channels_first":
            raise CheckpointError(f"layer {name} is channels_first; only channels_last can be imported")
        if kind in ("Conv2D", "Dense", "Activation"):
            function = config.get("activation", "linear")
            if function != "linear":
                found.add(_ACTIVATIONS.get(function, function))
        elif kind in _ACTIVATIONS and not config.get("absolute_value"):
            found.add(_ACTIVATIONS[kind])
        elif kind not in _WITHOUT_EFFECT:
            raise CheckpointError(f"layer {name} is a {kind}, which the paper's architectures have not")
    others = sorted(str(each) for each in found if each not in _ACTIVATIONS.values())
    if others or len(found) > 1:
        raise CheckpointError(
            f"its activations are {', '.join(sorted(map(str, found)))}; one of minmax, relu is needed"
        )
    in_file = found.pop() if found else None
    if asked is not None and in_file is not None and asked != in_file:
        raise CheckpointError(f"its activation is {in_file}, not {asked}; leave the activation out")
    return asked or in_file or "minmax"


def _input_shape(file: KerasFile) -> tuple[int, int, int]:
    for _, config in file.config:
        shape = config.get("batch_input_shape") or config.get("batch_shape")
        if isinstance(shape, list) and len(shape) == 4 and all(isinstance(size, int) for size in shape[1:]):
            height, width, channels = shape[1:]
            return channels, height, width
    raise ConfigError("the file does not say the shape of its images; give the input shape (channels, height, width)")


def _check_settings(target: nn.Conv2d | nn.Linear, source: KerasLayer, config: dict[str, Any]) -> None:
    """Compare what a kernel's shape does not show, where the file says it."""
    if not isinstance(target, nn.Conv2d):
        return
    expected = {"strides": list(target.stride), "padding": "same", "dilation_rate": [1, 1], "groups": 1}
    for setting, value in expected.items():
        found = config.get(setting, value)
        found = list(found) if isinstance(found, tuple) else found
        if found != value:
            raise CheckpointError(f"layer {source.name} has {setting} {found}, {value} is needed")
