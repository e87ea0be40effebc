"""LiResNet: a deep net of linear residual convolutions.

Hu, Zou, Wang, Leino, Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS 2023.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.normalize import Normalize
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.nn.unit_rows import UnitRows

_NAME = re.compile(r"LiResNet-([1-9]\d*)x([1-9]\d*)(-LLN)?")


def parse(name: str) -> tuple[int, int, bool] | None:
    """Read depth, width and whether the last layer is normalized from ``"LiResNet-12x512"`` or with ``"-LLN"`` behind.

    None for any other name.
    """
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2]), match[3] is not None) if match else None


def liresnet(
    depth: int,
    width: int,
    last_layer_normalization: bool = False,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    features: int | None = None,
    make_activation: Callable[[], nn.Module] = MinMax,
    initialize: Callable[[Tensor], Tensor] = nn.init.orthogonal_,
) -> nn.Sequential:
    """Build a LiResNet: pixels less 1/2, stem, ``depth`` linear residual convolutions, neck, head.

    The stem is a 5 x 5 convolution of stride 2, the neck a 4 x 4 one of stride 4 and a dense layer. An activation
    follows the stem, each residual convolution and the dense layer. The branches start near zero, with standard
    deviation 1 / (9 width sqrt(depth)), so that each block starts near the identity, with a norm near 1. What the
    authors' code has besides is left out: factors and centering of the branches, and the orthogonal layers of its later
    versions.

    Args:
        depth: residual convolutions.
        width: channels of all of them.
        last_layer_normalization: whether the rows of the head have norm 1, by :class:`gloro_fast.nn.UnitRows`, as the
            authors' have.
        input_shape: (C, H, W) of one image, in [0, 1].
        num_classes: m, the units of the head.
        features: units of the neck; 4 * width by default, which is the authors' 2,048 at their width of 512.
        make_activation: makes the activation after each layer; MinMax needs an even width.
        initialize: initializes the weights outside the residual branches in place.

    Returns:
        A module from (B, C, H, W) to logits (B, m).
    """
    channels, height, width_of_image = input_shape
    features = 4 * width if features is None else features
    layers: list[nn.Module] = [
        Normalize(0.5, 1.0),
        Conv2d(channels, width, 5, 2, padding="same"),
        make_activation(),
    ]
    for _ in range(depth):
        layers += [ResidualConv2d(width), make_activation()]
    # Stem and neck divide the sides by 2 and by 4, rounded up.
    pixels = -(-height // 8) * -(-width_of_image // 8)
    layers += [Conv2d(width, width, 4, 4, padding="same"), nn.Flatten()]
    layers += [nn.Linear(width * pixels, features), make_activation(), nn.Linear(features, num_classes)]
    for layer in layers:
        if isinstance(layer, ResidualConv2d):
            nn.init.normal_(layer.weight, std=depth**-0.5 / (9 * width))
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            initialize(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    if last_layer_normalization:
        register_parametrization(layers[-1], "weight", UnitRows())
    return nn.Sequential(*layers)
