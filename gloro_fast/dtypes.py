"""The types that a net computes in, for activations whose rule depends on them."""

from __future__ import annotations

import torch
from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.fingerprint import registered
from gloro_fast.graph.node import Layer, constants
from gloro_fast.nn.activation_rules import check_dtype
from gloro_fast.plan import Plan


def check_dtypes(module: nn.Module, plan: Plan) -> None:
    """Refuse activations whose rule does not hold for float64 inputs, where any may be of that type.

    An element is float64 if the images are, or a tensor that it was combined with: a parameter, a buffer, or what the
    forward makes of those. Any such tensor counts, wherever it is used.

    Args:
        module: the module that ``plan`` was made from.
        plan: its layers.

    Raises:
        ArchitectureError: names the layer and the setting.
    """
    for node in plan.nodes:
        if not isinstance(node.transfer, Layer):
            continue
        try:
            check_dtype(node.transfer.module, torch.float64)
        except ArchitectureError as error:
            if _computes_in_float64(module, plan):
                raise ArchitectureError(f"{node.name or 'the module'}: {error}") from None


def _computes_in_float64(module: nn.Module, plan: Plan) -> bool:
    tensors = [tensor for _, tensor in (*registered(module), *plan.unregistered())]
    made = [constants(plan.nodes, index).value() for index, node in enumerate(plan.nodes) if node.is_constant]
    return torch.float64 in (plan.dtype, *(tensor.dtype for tensor in (*tensors, *made)))
