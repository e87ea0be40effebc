"""The rule of BatchNorm: a scale a channel, from the running statistics."""

from __future__ import annotations

from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn.real import require_floating
from gloro_fast.nn.rules import Diagonal, register_lipschitz_rule


@register_lipschitz_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm(module: nn.Module, input_shape: tuple[int, ...]) -> Diagonal:
    """Give gamma / sqrt(running variance + eps) a channel: in evaluation the layer is just that and a shift.

    In training the layer divides by the deviation of the batch, and one image moves the others. What an image will
    meet in evaluation are the running statistics, so that they serve in training as well: an estimate to train
    with, through which the gradient reaches gamma, but no bound on the layer as it is in training.
    """
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    if module.running_var is None:
        raise ArchitectureError(
            f"{type(module).__name__} without running statistics mixes the images of a batch also in evaluation; "
            "set track_running_stats=True"
        )
    # The sum, the root and the quotient are rounded once each, well within the 2^-50 that Diagonal allows.
    scale = (require_floating("the running variance", module.running_var).double() + module.eps).rsqrt()
    if module.weight is not None:
        scale = require_floating("the weight", module.weight).double() * scale
    return Diagonal(scale.reshape(-1, *[1] * (len(input_shape) - 1)))
