"""Whether the CUDA kernels of power iteration take the layers of a network; a warning says so once where they don't."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch

from gloro_fast import _gpu


def gpu_runs(numbers: Sequence[int], device: torch.device) -> bool:
    """Whether the kernels take these layers on this device.

    Under torch.compile, and for tensors without a GPU behind them, the device is assumed to be able.

    Args:
        numbers: the layers as the compiled op takes them.
        device: a CUDA device.
    """
    if not _gpu.runs("power_iteration"):
        return False
    if torch.compiler.is_compiling() or not torch.cuda.is_available():
        return True
    return _fits(tuple(numbers), torch.cuda.current_device() if device.index is None else device.index)


@lru_cache(maxsize=64)
def _fits(numbers: tuple[int, ...], index: int) -> bool:
    if torch.ops.gloro_fast.power_iteration_fits(index, list(numbers)):
        return True
    name = torch.cuda.get_device_name(index)
    warnings.warn(
        "gloro_fast runs power_iteration as plain PyTorch on the GPU, slower, with the same results: "
        f"{name} has no cooperative launch, or no room for one of the layers",
        RuntimeWarning,
        stacklevel=4,
    )
    return False
