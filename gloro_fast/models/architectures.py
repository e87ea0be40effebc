"""Networks by name: the paper's (Leino et al. 2021, Appendix B), LiResNet (Hu et al. 2023), BRONet (Lai et al. 2025).

The last two, and dense nets, are of any depth and width.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import nn

from gloro_fast.errors import ArchitectureError, ConfigError, nearest
from gloro_fast.models import bronet, liresnet
from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.minmax import MinMax

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Architecture:
    """Convolutions c(channels, kernel, stride), then hidden dense layers d(units); the head comes on top."""

    convolutions: tuple[tuple[int, int, int], ...]
    dense: tuple[int, ...] = ()


ARCHITECTURES: dict[str, _Architecture] = {
    "2C2F": _Architecture(((16, 4, 2), (32, 4, 2)), (100,)),
    "4C3F": _Architecture(((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)), (512, 512)),
    "6C2F": _Architecture(((32, 3, 1), (32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 3, 1), (64, 4, 2)), (512,)),
    "8C2F": _Architecture(
        ((64, 3, 1), (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2)),
        (256,),
    ),
    # The paper prints this one under the name 8C2F; its authors' later code has the net above, as the name says.
    "8C2F-print": _Architecture(
        ((64, 3, 1), (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2))
    ),
}
"""The paper's nets by name: their convolutions and hidden dense layers."""

_MLP = re.compile(r"MLP-([1-9]\d*)x([1-9]\d*)")
_OF_ANY_SIZE = ("MLP-2x256", "LiResNet-12x512", "LiResNet-12x512-Cholesky-LLN", "BRONet-12x512")

_ACTIVATIONS = {"minmax": MinMax, "relu": nn.ReLU}
_INITIALIZATIONS = {"orthogonal": nn.init.orthogonal_, "glorot_uniform": nn.init.xavier_uniform_}


def build(
    name: str,
    activation: str = "minmax",
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    initialization: str = "orthogonal",
) -> nn.Sequential:
    """Build a network of the paper: SAME padding, an activation after every layer but the last, zero biases.

    Args:
        name: ``"2C2F"``, ``"4C3F"``, ``"6C2F"``, ``"8C2F"`` or ``"8C2F-print"``; ``"MLP-2x256"`` for two hidden dense
            layers of 256 units and no other; ``"LiResNet-12x512"`` for one of depth 12 and width 512
            (:func:`gloro_fast.models.liresnet.liresnet`), ``"LiResNet-12x512-LLN"`` for one with last layer
            normalization, ``"LiResNet-12x512-Cholesky-LLN"`` with orthogonal dense layers besides;
            ``"BRONet-12x512"`` (:func:`gloro_fast.models.bronet.bronet`).
        activation: ``"minmax"`` or ``"relu"``.
        input_shape: (C, H, W) of one image.
        num_classes: m >= 2, the units of the last dense layer.
        initialization: ``"orthogonal"`` or ``"glorot_uniform"``; draws from torch's global generator.

    Returns:
        A module from (B, C, H, W) to logits (B, m).

    Raises:
        ConfigError: an unknown name; the message suggests the nearest.
        ArchitectureError: ``input_shape`` is not (C, H, W), or there are fewer than two classes.
    """
    deep: Callable[..., nn.Sequential] | None = None
    architecture = ARCHITECTURES.get(name)
    if (residual := liresnet.parse(name)) is not None:
        deep = partial(liresnet.liresnet, *residual)
    elif (reflecting := bronet.parse(name)) is not None:
        deep = partial(bronet.bronet, *reflecting)
    elif (dense := _MLP.fullmatch(name)) is not None:
        architecture = _Architecture((), (int(dense[2]),) * int(dense[1]))
    elif architecture is None:
        raise ConfigError(f"there is no architecture {name!r}{nearest(name, (*ARCHITECTURES, *_OF_ANY_SIZE))}")
    make_activation = _lookup("activation", activation, _ACTIVATIONS)
    initialize = _lookup("initialization", initialization, _INITIALIZATIONS)
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ArchitectureError(f"input_shape is {tuple(input_shape)}; give (channels, height, width)")
    if num_classes < 2:
        raise ArchitectureError(f"num_classes is {num_classes}; a classifier needs at least 2")

    channels, height, width = input_shape
    if deep is not None:
        return deep(
            input_shape=(channels, height, width),
            num_classes=num_classes,
            make_activation=make_activation,
            initialize=initialize,
        )
    assert architecture is not None
    layers: list[nn.Module] = []
    for out_channels, kernel, stride in architecture.convolutions:
        layers += [Conv2d(channels, out_channels, kernel, stride, padding="same"), make_activation()]
        channels, height, width = out_channels, -(-height // stride), -(-width // stride)
    layers.append(nn.Flatten())
    features = channels * height * width
    for units in architecture.dense:
        layers += [nn.Linear(features, units), make_activation()]
        features = units
    layers.append(nn.Linear(features, num_classes))

    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            initialize(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _lookup(what: str, name: str, table: dict[str, _T]) -> _T:
    try:
        return table[name]
    except KeyError:
        raise ConfigError(f"there is no {what} {name!r}{nearest(name, table)}") from None
