"""Whether the CUDA kernels of power iteration take the layers of a network; a warning says so once where they don't."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from gloro_fast.native import dispatch


def gpu_runs(numbers: Sequence[int], device: torch.device) -> bool:
    """Return whether the kernels take these layers on this device.

    Where the GPU or its driver refuses them, one warning gives the reason. Under torch.compile, and for tensors
    without a GPU behind them, the device is assumed to be able.

    Args:
        numbers: the layers as the compiled op takes them.
        device: a CUDA device.
    """
    if not dispatch.runs("power_iteration"):
        return False
    if torch.compiler.is_compiling() or not torch.cuda.is_available():
        return True
    reason = _refusal(tuple(numbers), torch.cuda.current_device() if device.index is None else device.index)
    if reason:
        dispatch.warn_once("power_iteration", reason)
    return not reason


@lru_cache(maxsize=64)
def _refusal(numbers: tuple[int, ...], index: int) -> str:
    """Plan the layers, ask the driver, and give its reason against them, or nothing."""
    reason: str = torch.ops.gloro_fast.power_iteration_refusal(index, list(numbers))
    return reason.rpartition("power_iteration: ")[2]


@lru_cache(maxsize=64)
def enough_multiprocessors(numbers: tuple[int, ...], index: int) -> int:
    """Return the fewest multiprocessors on which these layers are expected to take 1.1 times as long as on all at most.

    By the cost model of the planner. Small nets wait rather than compute: on an H100 with 132 multiprocessors it gives
    21 for 2C2F, 58 for 6C2F and 104 for 8C2F.

    Args:
        numbers: the layers as the compiled op takes them (:func:`gloro_fast.ops.power_iteration_op.layer_numbers`).
        index: of a CUDA device for which :func:`gpu_runs`.

    Raises:
        RuntimeError: a layer does not fit into the kernels, or the device cannot be asked.
    """
    enough: int = torch.ops.gloro_fast.power_iteration_enough_multiprocessors(index, list(numbers))
    return enough
