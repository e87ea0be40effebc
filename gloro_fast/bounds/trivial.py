"""Bounds in one pass over a weight, for what nothing better is affordable."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.bounds.axis import padding_copies
from gloro_fast.bounds.layer import LayerBound
from gloro_fast.bounds.scaling import scale
from gloro_fast.rounding import gamma, norm_up, sqrt_up
from gloro_fast.rules.registry import LinearMap


@torch.no_grad()
def trivial(name: str, layer: LinearMap) -> LayerBound:
    """Return a float >= the spectral norm of the real-arithmetic layer with these weights as the values they are.

    The smaller of two. A convolution is a sum over its taps u of K_u tensored with a shift, which has norm at most 1:
    ||T|| <= sum_u ||K_u||_F (for a group; the largest of the groups' sums). And ||T||^2 <= ||T||_1 ||T||_inf, the
    largest sums of absolute values over the weights of an input channel and of an output channel. A dense layer is
    a single tap. Circular padding is a linear map before it, whose norm is the root of how often an entry appears.

    Sums of n terms are enlarged by 1 + gamma_(n+8), which also covers the operations after them, in float64 on the
    weight's device.

    Args:
        name: the layer's name, for the result.
        layer: weight of any floating dtype, dense or convolution in any number of dimensions.
    """
    scaled = scale(layer.weight)
    if isinstance(scaled, float):
        return LayerBound(name, scaled, "trivial", "upper bound")
    kernel = scaled.weight.reshape(layer.geometry.groups, -1, *scaled.weight.shape[1:])
    matrices = kernel.flatten(3) if kernel.ndim > 3 else kernel[..., None]
    bound = min(_sum_of_taps(matrices), sqrt_up(_product_of_sums(matrices)))
    if layer.geometry.padding_mode == "circular":
        bound *= sqrt_up(padding_copies(layer.geometry)) * (1 + gamma(4))
    return LayerBound(name, scaled.unscale_up(bound), "trivial", "upper bound")


def _sum_of_taps(matrices: Tensor) -> float:
    norms = norm_up(matrices.permute(0, 3, 1, 2), 2)
    return float(norms.sum(dim=1).max()) * (1 + gamma(norms.shape[1] + 8))


def _product_of_sums(matrices: Tensor) -> float:
    magnitude = matrices.abs()
    by_output, by_input = magnitude.sum(dim=(2, 3)), magnitude.sum(dim=(1, 3))
    return float(by_output.max()) * float(by_input.max()) * (1 + 3 * gamma(magnitude[0].numel() + 8))
