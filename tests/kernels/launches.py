"""What host code launches on a GPU, counted without one: its operations on fake tensors, and Triton's launches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAIT = {"nonzero", "_local_scalar_dense", "item", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}
_LAUNCH_NOTHING = {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "device",
    "detach",
    "promote_types",
}


class Launches(TorchDispatchMode):
    """Operations as they come.

    Attributes:
        kernels: names of the Triton kernels that were launched.
        operations: names of PyTorch's operations that launch something.
        waits: what waits for the device, or copies to it from the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.operations: list[str] = []
        self.waits: list[str] = []

    @property
    def count(self) -> int:
        return len(self.kernels) + len(self.operations)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        kwargs = kwargs or {}
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        host = any(value.is_cpu and (value.dim() > 0 or name in ("copy_", "_to_copy")) for value in inputs)
        by_mask = name.startswith("index") and any(value.dtype in (torch.bool, torch.uint8) for value in inputs[1:])
        if name in _WAIT or host or by_mask or name.startswith("lift_fresh"):
            self.waits.append(name)
        if not func.is_view and name not in _LAUNCH_NOTHING:
            self.operations.append(name)
        return func(*args, **kwargs)


@contextlib.contextmanager
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Count what runs within, on fake tensors made there; ``device="cuda"`` will do."""
    with monkeypatch.context() as patch, FakeTensorMode(), Launches() as counted:

        def launch(kernel: Any, *arguments: Any, **options: Any) -> None:
            counted.kernels.append(kernel.__name__)

        patch.setattr(triton.runtime.jit.JITFunction, "run", launch)
        patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        yield counted
