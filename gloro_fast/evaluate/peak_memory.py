"""The peak of live tensor bytes: what a training step, or a certification, needs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_STEPS = 3


def peak_bytes(step: Callable[[], object], module: nn.Module, resident: Iterable[Tensor]) -> int:
    """Count the tensor bytes that are live when ``step`` needs most.

    On a GPU that is what torch's allocator says. On the CPU, torch's profiler reports every allocation and release
    of torch's allocator, those inside native ops included; memory that libraries get elsewhere (oneDNN's
    scratchpads) is in no contender's count.

    Args:
        step: does one training step; gradients of the step before may be there.
        module: the module being trained.
        resident: tensors that live on between steps, gradients apart; their storages are added, each once.
    """
    base = sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in resident}.values())
    step()
    # Gradients that were allocated before recording began would be released unseen.
    module.zero_grad(set_to_none=True)
    device = next(module.parameters()).device
    return base + (_cuda_growth(step, device) if device.type == "cuda" else _cpu_growth(step))


def _cuda_growth(step: Callable[[], object], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(_STEPS):
        step()
    return torch.cuda.max_memory_allocated(device) - before


def _cpu_growth(step: Callable[[], object]) -> int:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        for _ in range(_STEPS):
            step()
    recorded = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in recorded if event.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak
