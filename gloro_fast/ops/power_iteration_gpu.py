"""Whether the batched power iteration runs on a GPU, and one warning where it does not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch

from gloro_fast import _extension

_BUILT = _extension.available() and torch._C._dispatch_has_kernel_for_dispatch_key(
    "gloro_fast::power_iteration", "CUDA"
)


def gpu_runs(numbers: Sequence[int], device: torch.device) -> bool:
    """Whether the CUDA kernels take these layers on this device; where they do not, say so once and why.

    Under torch.compile, and for tensors without a GPU behind them, the device is assumed to be able.
    """
    if torch.compiler.is_compiling():
        return _BUILT
    if not _extension.available():
        return True  # the caller says so
    if not _BUILT:
        _warn("the extension was built without CUDA; build it on a machine with nvcc")
        return False
    if not torch.cuda.is_available():
        return True
    index = torch.cuda.current_device() if device.index is None else device.index
    if not _fits(tuple(numbers), index):
        _warn(f"{torch.cuda.get_device_name(index)} has no cooperative launch, or no room for one of the layers")
        return False
    return True


@lru_cache(maxsize=64)
def _fits(numbers: tuple[int, ...], index: int) -> bool:
    return bool(torch.ops.gloro_fast.power_iteration_fits(index, list(numbers)))


@lru_cache(maxsize=8)
def _warn(reason: str) -> None:
    warnings.warn(
        f"gloro_fast runs the power iteration as plain PyTorch on the GPU, slower, with the same results: {reason}",
        RuntimeWarning,
        stacklevel=4,
    )
