"""Which ops run as kernels of their own on a GPU, and why not where they don't.

Kernels written in Triton are registered from here as the CUDA implementation of the ops (torch calls AMD's GPUs
CUDA as well); Triton is imported when the first of them runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import extension

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_in_triton: set[str] = set()
_loading: dict[str, Callable[[], Callable[..., Any]]] = {}
_implementations: dict[str, Callable[..., Any]] = {}
_switched_off: dict[str, str] = {}
_warned: set[str] = set()


def implement(op: str, module: str) -> None:
    """Register ``gloro_fast.kernels.<module>.<op>`` as the CUDA implementation of the op ``gloro_fast::<op>``.

    Where it runs is asked of :func:`why_not` under the name of the module, which holds the passes of one op.
    """

    @cache
    def load() -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module(f"gloro_fast.kernels.{module}"), op)
        return function

    def run(*arguments: Any) -> Any:
        return load()(*arguments)

    _loading[op] = load
    _in_triton.add(module)
    _implementations[f"gloro_fast::{op}"] = run
    torch.library.impl(f"gloro_fast::{op}", "CUDA", run)


def implementation(op: str) -> Callable[..., Any] | None:
    """Return the function in Triton that serves an op, such as ``"gloro_fast::minmax"``; None if there is none."""
    return _implementations.get(op)


def eager(op: str) -> Callable[..., Any]:
    """Return what calls an op in eager mode where autograd has no part in it, as within functions of its own.

    On a GPU it is the implementation in Triton itself, unless a mode, a subclass of tensors or a compiler is to see the
    call: the dispatcher takes ten microseconds to get from Python to Python.
    """
    overload, load = getattr(torch.ops.gloro_fast, op).default, _loading[op]

    def call(tensor: Tensor, *arguments: Any) -> Any:
        if _is_seen_by_nobody(tensor):
            return load()(tensor, *arguments)
        if torch.compiler.is_compiling():
            return overload(tensor, *arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(tensor, *arguments)

    return call


def _is_seen_by_nobody(tensor: Tensor) -> bool:
    return (
        tensor.is_cuda
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch._C._len_torch_dispatch_stack()
        and not torch.compiler.is_compiling()
    )


def implementations() -> dict[str, Callable[..., Any]]:
    """List the functions in Triton by the ops that they serve."""
    return dict(_implementations)


def is_triton(op: str) -> bool:
    """Return whether the op's kernels for GPUs are written in Triton."""
    return op in _in_triton


def why_not(op: str) -> str | None:
    """Why the op runs as plain PyTorch on a GPU, in one line; None if a kernel serves it."""
    reason = extension.why_not() or _switched_off.get(op)
    if reason is not None:
        return reason
    if op in _in_triton:
        return None if _HAS_TRITON else "triton is not installed; `pip install triton`"
    return None if extension.has_kernel(op, "cuda") else "there is no kernel for it on this device"


def runs(op: str) -> bool:
    """Return whether a kernel serves the op on a GPU; warns once of each reason where none does."""
    reason = why_not(op)
    if reason is None:
        return True
    warn_once(op, reason)
    return False


def warn_once(op: str, reason: str) -> None:
    """Say that plain PyTorch stands in for the op's kernels, once in a process for each reason."""
    if reason in _warned or torch.compiler.is_compiling():
        return
    _warned.add(reason)
    message = f"gloro_fast runs {op} as plain PyTorch on the GPU, slower, with the same results: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def switch_off(op: str, reason: str) -> None:
    """Let plain PyTorch stand in for the op's kernels on GPUs for the rest of the process, and warn of it."""
    _switched_off[op] = reason
    _warned.add(reason)
    message = f"gloro_fast runs {op} as plain PyTorch on the GPU for the rest of this process: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
