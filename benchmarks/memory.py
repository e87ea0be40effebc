"""Bytes of a training step: saved for the backward pass, and live at the peak."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from gloro_fast.evaluate.peak_memory import peak_bytes

__all__ = ["peak_bytes", "saved_bytes"]


def saved_bytes(step: Callable[[], object], module: nn.Module) -> int:
    """Count the bytes that ``step`` keeps from its forward for its backward pass.

    Whole storages, each once, as autograd holds them; parameters are left out, since they are there anyway.
    """
    parameters = {_address(parameter) for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in parameters:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
