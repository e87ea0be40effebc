"""The rule of BatchNorm: a scale a channel, from the running statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.ops.kept import kept
from gloro_fast.rules.real import require_floating
from gloro_fast.rules.registry import Diagonal, register_lipschitz_rule
from gloro_fast.rules.traits import Affine, Traits


def _affine(module: nn.modules.batchnorm._BatchNorm) -> Affine:
    assert module.running_mean is not None
    assert module.running_var is not None
    return Affine(module.running_mean, module.running_var.double() + module.eps, module.weight, module.bias)


@register_lipschitz_rule(nn.SyncBatchNorm, traits=Traits(multiplies=False, rounding=_affine))
@register_lipschitz_rule(
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    traits=Traits(multiplies=False, rounding=_affine, spares_output=True),
)
def _batch_norm(module: nn.Module, input_shape: tuple[int, ...]) -> Diagonal:
    """Return gamma / sqrt(running variance + eps) a channel: in evaluation the layer is just that and a shift.

    In training the layer divides by the deviation of the batch, and one image moves the others. What an image will
    meet in evaluation are the running statistics, so that they serve in training as well: an estimate to train
    with, through which the gradient reaches gamma, but no bound on the layer as it is in training.
    """
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm)
    if module.running_var is None:
        raise ArchitectureError(
            f"{type(module).__name__} without running statistics mixes the images of a batch also in evaluation; "
            "set track_running_stats=True"
        )
    scale = channel_scale(module.running_var, module.eps, module.weight)
    return Diagonal(scale.reshape(-1, *[1] * (len(input_shape) - 1)))


def channel_scale(variance: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    """Return what BatchNorm in evaluation multiplies each channel by, within a relative 2^-50.

    A negative variance gives NaN, which bounds nothing: its sum with eps may cancel, and then be anything as computed.

    Args:
        variance: (C,) running variance.
        eps: >= 0, what is added to it.
        weight: (C,) gamma; None stands for 1.

    Returns:
        (C,) float64, weight / sqrt(variance + eps).

    Raises:
        ArchitectureError: eps is negative, or a tensor is not real floating point.
    """
    if not eps >= 0:
        raise ArchitectureError(f"eps is {eps:g}; it must be at least 0")
    # A compiled step changes it before its backward pass.
    variance = kept(require_floating("the running variance", variance)).double()
    # The sum, the root and the quotient are rounded once each.
    scale = torch.where(variance >= 0, (variance + eps).rsqrt(), torch.nan)
    return scale if weight is None else require_floating("the weight", weight).double() * scale
