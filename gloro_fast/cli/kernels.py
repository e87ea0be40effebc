"""Which implementation of each op runs on each device, asked of torch's dispatcher itself."""

from __future__ import annotations

import torch

from gloro_fast import bounds, ops
from gloro_fast.native import dispatch, extension
from gloro_fast.ops import Geometry
from gloro_fast.ops.dense_op import mkl_holds_back
from gloro_fast.rules.registry import LinearMap


def active_kernels() -> list[dict[str, str]]:
    """Return a row for each op and device.

    Returns:
        ``op``, ``device``, ``runs`` (compiled, Triton, oneDNN or PyTorch reference) and ``why``.
    """
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return [_row(op, device) for op in op_names() for device in devices]


def op_names() -> list[str]:
    """Return the ops of the package: those that have an oracle beside them."""
    return [name for name in ops.__all__ if f"{name}_reference" in ops.__all__]


def bound_kinds() -> dict[str, str]:
    """Return for each method of bounding whether it gives an estimate or an upper bound, by trying it."""
    layers = [("trial", LinearMap(torch.eye(2), Geometry((2,))))]
    return {method: bounds.bound_network(layers, method).kind for method in bounds.METHODS}


def _row(op: str, device: str) -> dict[str, str]:
    if (op, device) == ("dense", "cpu") and mkl_holds_back():
        return {"op": op, "device": device, "runs": "oneDNN", "why": "MKL holds back on this processor"}
    reason = _why_not_on_cpu(op) if device == "cpu" else dispatch.why_not(op)
    if reason is None:
        kind = "Triton" if device != "cpu" and dispatch.is_triton(op) else "compiled"
        return {"op": op, "device": device, "runs": kind, "why": "there is a kernel for it"}
    return {"op": op, "device": device, "runs": "PyTorch reference", "why": reason}


def _why_not_on_cpu(op: str) -> str | None:
    if (reason := extension.why_not()) is not None:
        return reason
    return None if extension.has_kernel(op, "cpu") else "there is no kernel for it on this device"
