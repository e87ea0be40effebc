"""Whether a CUDA graph is being captured, where nothing may wait for the device or copy to it from the host."""

from __future__ import annotations

import torch


def is_capturing(device: torch.device) -> bool:
    """Return whether the current stream records a graph instead of running; False but for CUDA devices in use."""
    if device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    return torch.cuda.is_current_stream_capturing()
