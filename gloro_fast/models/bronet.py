"""BRONet: a deep net of block reflectors.

Lai, Huang, Kung, Chen, "Enhancing certified robustness via block reflector orthogonal layers and logit annealing loss",
ICML 2025.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn

from gloro_fast.models.liresnet import assemble, near_identity
from gloro_fast.nn.fourier_conv import BROConv2d
from gloro_fast.nn.minmax import MinMax

_NAME = re.compile(r"BRONet-([1-9]\d*)x([1-9]\d*)")


def parse(name: str) -> tuple[int, int] | None:
    """Read depth and width from ``"BRONet-12x512"``; None for any other name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def bronet(
    depth: int,
    width: int,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    features: int | None = None,
    make_activation: Callable[[], nn.Module] = MinMax,
    initialize: Callable[[Tensor], Tensor] = nn.init.orthogonal_,
) -> nn.Sequential:
    """Build a BRONet: a LiResNet with an orthogonal neck, whose convolutions are block reflectors of rank width / 2.

    So the stem alone has another constant than 1, and the head's rows have norm 1. At 12 x 512 on 32 x 32 pixels it has
    68.8 million parameters, as the authors' configuration for CIFAR-10 but for factors of the reflectors and dense
    layers, which are left out with the centering of the former. Theirs pad with zeros, and cut off afterwards what was
    padded; these are circular.

    Args:
        depth: block reflectors.
        width: channels of all of them.
        input_shape: (C, H, W) of one image, in [0, 1]; 5 x 5 pixels at least, for 3 x 3 kernels after the stem.
        num_classes: m, the units of the head.
        features: units of the neck and of the eight dense layers after it; 4 * width by default.
        make_activation: makes the activation after each layer; MinMax needs an even width.
        initialize: initializes the weights of stem and head in place.

    Returns:
        A module from (B, C, H, W) to logits (B, m).
    """

    def start(block: BROConv2d) -> None:
        block.weight = nn.Parameter(near_identity(block.weight, depth))

    return assemble(
        [lambda: BROConv2d(width, width, 3)] * depth,
        start,
        width,
        True,
        True,
        input_shape,
        num_classes,
        features,
        make_activation,
        initialize,
    )
