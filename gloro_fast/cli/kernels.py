"""Which implementation of each op runs on each device, asked of torch's dispatcher itself."""

from __future__ import annotations

import torch

from gloro_fast import _extension, bounds, ops
from gloro_fast.nn.rules import LinearMap
from gloro_fast.ops import Geometry


def active_kernels() -> list[dict[str, str]]:
    """Give a row for each op and device: ``op``, ``device``, ``runs`` (compiled or reference) and ``why``."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return [_row(op, device) for op in op_names() for device in devices]


def op_names() -> list[str]:
    """Give the ops of the package: those that have an oracle beside them."""
    return [name for name in ops.__all__ if f"{name}_reference" in ops.__all__]


def bound_kinds() -> dict[str, str]:
    """Give for each method of bounding whether it gives an estimate or an upper bound, by trying it."""
    layers = [("trial", LinearMap(torch.eye(2), Geometry((2,))))]
    return {method: bounds.bound_network(layers, method).kind for method in bounds.METHODS}


def _row(op: str, device: str) -> dict[str, str]:
    reason = _extension.why_not()
    if reason is None and _is_registered(op, device):
        return {"op": op, "device": device, "runs": "compiled", "why": "the extension has a kernel for it"}
    why = reason or "the extension has no kernel for it on this device"
    return {"op": op, "device": device, "runs": "PyTorch reference", "why": why}


def _is_registered(op: str, device: str) -> bool:
    if not hasattr(torch.ops.gloro_fast, op):
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"gloro_fast::{op}", device.upper())
