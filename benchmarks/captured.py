"""A step as one CUDA graph."""

from __future__ import annotations

import torch

from benchmarks.interleaving import Job

_WARM_UP = 4  # optimizers and libraries set themselves up in the first steps, which a capture must not see


def captured(step: Job, device: torch.device) -> Job:
    """Capture a step that waits for nothing; the replay.

    Args:
        step: does the same work on the same memory at every call; its optimizer must be ``capturable``.
        device: where.

    Raises:
        RuntimeError: the device has no graphs, or the step cannot be captured.
    """
    if device.type != "cuda":
        raise RuntimeError(f"there are no CUDA graphs on {device.type}")
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
