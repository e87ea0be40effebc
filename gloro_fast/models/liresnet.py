"""LiResNet: a deep net of linear residual convolutions.

Hu, Zou, Wang, Leino, Fredrikson, "Unlocking Deterministic Robustness Certification on ImageNet", NeurIPS 2023.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.normalize import Normalize
from gloro_fast.nn.orthogonal_linear import CholeskyLinear, Orthogonal
from gloro_fast.nn.orthogonal_maps import cholesky_orthogonal
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.nn.unit_rows import UnitRows

Block = TypeVar("Block", bound=nn.Module)

_NAME = re.compile(r"LiResNet-([1-9]\d*)x([1-9]\d*)(-Cholesky)?(-LLN)?")
HIDDEN = 8
"""Dense layers between neck and head where these are orthogonal, as the authors have them."""


def parse(name: str) -> tuple[int, int, bool, bool] | None:
    """Read depth, width, whether the last layer is normalized and whether neck and dense layers are orthogonal.

    From ``"LiResNet-12x512"``, with ``"-Cholesky"`` or ``"-LLN"`` behind it, or both; None for any other name.
    """
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2]), match[4] is not None, match[3] is not None) if match else None


def liresnet(
    depth: int,
    width: int,
    last_layer_normalization: bool = False,
    orthogonal_neck: bool = False,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    features: int | None = None,
    make_activation: Callable[[], nn.Module] = MinMax,
    initialize: Callable[[Tensor], Tensor] = nn.init.orthogonal_,
) -> nn.Sequential:
    """Build a LiResNet: pixels less 1/2, stem, ``depth`` linear residual convolutions, neck, head.

    The branches start near zero, with standard deviation 1 / (9 width sqrt(depth)), so that each block starts near the
    identity, with a norm near 1. What the authors' code has besides is left out: factors and centering of the branches.

    Args:
        depth: residual convolutions.
        width: channels of all of them.
        last_layer_normalization: whether the rows of the head have norm 1, by :class:`gloro_fast.nn.UnitRows`, as the
            authors' have.
        orthogonal_neck: whether the neck is orthogonal and eight orthogonal dense layers follow it, by Cholesky
            factors, as in the code of Hu, Leino, Wang, Fredrikson, "A recipe for improved certifiable robustness",
            ICLR 2024.
        input_shape: (C, H, W) of one image, in [0, 1].
        num_classes: m, the units of the head.
        features: units of the neck; 4 * width by default, which is the authors' 2,048 at their width of 512.
        make_activation: makes the activation after each layer; MinMax needs an even width.
        initialize: initializes in place the weights that are neither orthogonal nor of residual branches.

    Returns:
        A module from (B, C, H, W) to logits (B, m).
    """

    def start(block: ResidualConv2d) -> None:
        nn.init.normal_(block.weight, std=depth**-0.5 / (9 * width))
        assert block.bias is not None
        nn.init.zeros_(block.bias)

    return assemble(
        [lambda: ResidualConv2d(width)] * depth,
        start,
        width,
        last_layer_normalization,
        orthogonal_neck,
        input_shape,
        num_classes,
        features,
        make_activation,
        initialize,
    )


def assemble(
    make_blocks: Sequence[Callable[[], Block]],
    start: Callable[[Block], None],
    width: int,
    last_layer_normalization: bool,
    orthogonal_neck: bool,
    input_shape: tuple[int, int, int],
    num_classes: int,
    features: int | None,
    make_activation: Callable[[], nn.Module],
    initialize: Callable[[Tensor], Tensor],
) -> nn.Sequential:
    """Build pixels less 1/2, stem, blocks, neck and head, an activation after each but the last.

    The stem is a 5 x 5 convolution of stride 2; the neck a 4 x 4 one of stride 4, without an activation, and a dense
    layer.

    Args:
        make_blocks: each makes a block from ``width`` channels to as many, of images with half the sides.
        start: initializes a block.
        width: channels of the blocks.
        last_layer_normalization: as for :func:`liresnet`, with the arguments that follow.
        orthogonal_neck: likewise.
        input_shape: likewise.
        num_classes: likewise.
        features: likewise.
        make_activation: likewise.
        initialize: likewise.
    """
    channels, height, width_of_image = input_shape
    features = 4 * width if features is None else features
    stem = Conv2d(channels, width, 5, 2, padding="same")
    layers: list[nn.Module] = [Normalize(0.5, 1.0), stem, make_activation()]
    blocks = []
    for make in make_blocks:
        blocks.append(make())
        layers += [blocks[-1], make_activation()]
    # Stem and neck divide the sides by 2 and by 4, rounded up.
    pixels = -(-height // 8) * -(-width_of_image // 8)
    patches = Conv2d(width, width, 4, 4, padding="same")
    dense = (CholeskyLinear if orthogonal_neck else nn.Linear)(width * pixels, features)
    layers += [patches, nn.Flatten(), dense, make_activation()]
    hidden = [CholeskyLinear(features, features) for _ in range(HIDDEN if orthogonal_neck else 0)]
    for layer in hidden:
        layers += [layer, make_activation()]
    head = nn.Linear(features, num_classes)
    initialize(stem.weight)
    for block in blocks:
        start(block)
    initialize(patches.weight)
    if not orthogonal_neck:
        initialize(dense.weight)
    initialize(head.weight)
    for bias in (stem.bias, patches.bias, *(layer.bias for layer in (dense, *hidden, head))):
        assert bias is not None
        nn.init.zeros_(bias)
    if orthogonal_neck:
        register_parametrization(patches, "weight", Orthogonal(cholesky_orthogonal))
        for layer in hidden:
            layer.weight = near_identity(layer.weight, len(hidden))
    if last_layer_normalization:
        register_parametrization(head, "weight", UnitRows())
    return nn.Sequential(*layers, head)


def near_identity(like: Tensor, depth: int) -> Tensor:
    """Return the identity and noise of deviation 1 / (n sqrt(depth)), n = out times taps, of a weight's shape."""
    identity, scale = torch.empty_like(like), float(depth**-0.5)
    (nn.init.eye_ if like.dim() == 2 else nn.init.dirac_)(identity)
    return identity + torch.randn_like(like) * scale / (len(like) * like[0, 0].numel())
