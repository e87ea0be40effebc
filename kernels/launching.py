"""Launches that training repeats at every step: Triton finds out once which binary serves them.

Before each launch Triton looks at all arguments, for the type of each, which pointers are multiples of 16 and which
integers of 16 or 1: 15 of the 20 microseconds that a launch takes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

from .launch_table import on_device_of

_T = TypeVar("_T")


class Launch:
    """A kernel and everything that it is launched with but tensors, which come first among its parameters.

    The first call is Triton's ordinary one; later ones go straight to its launcher, with the binary of the first. All
    tensors must have the types and be on the device of the first call's. Those that do not begin at a multiple of 16
    bytes, calls under a mode, such as that of fake tensors, launch hooks, another current device, tensors on the CPU,
    and GPUs that are not NVIDIA's have the ordinary call always.

    Args:
        kernel: decorated by ``triton.jit``.
        grid: programs.
        numbers: integers, the next parameters.
        constants: ``tl.constexpr`` parameters, the last ones, and Triton's own options by name.
    """

    def __init__(self, kernel: Any, grid: tuple[int, ...], numbers: tuple[int, ...] = (), **constants: Any) -> None:
        self._kernel, self._grid, self._numbers, self._constants = kernel, grid, numbers, constants
        self._again: _Again | None = None

    def __call__(self, *tensors: Tensor | None) -> None:
        """Launch for these tensors."""
        again = self._again
        if again is not None and not torch._C._len_torch_dispatch_stack():
            runtime, device = triton.knobs.runtime, again.current_device()
            addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
            if not (
                reduce(or_, addresses) & 15
                or device != again.device
                or getattr(runtime.launch_enter_hook, "calls", True)
                or getattr(runtime.launch_exit_hook, "calls", True)
            ):
                again.run(*again.grid, again.stream_of(device), *again.binary, *addresses, *again.rest)
                return
        with on_device_of(next(tensor for tensor in tensors if tensor is not None)):
            compiled = self._kernel[self._grid](*tensors, *self._numbers, **self._constants)
            if compiled is not None and again is None:
                self._keep(compiled, tensors)

    def _keep(self, compiled: Any, tensors: tuple[Tensor | None, ...]) -> None:
        given = [tensor for tensor in tensors if tensor is not None]
        if not _are_on_gpu(given) or any(tensor.data_ptr() & 15 for tensor in given):
            return
        # AMD's backend tells apart tensors of more than 2 GB as well.
        if compiled.metadata.target.backend != "cuda":
            return
        driver = triton.runtime.driver.active
        constants = [self._constants[parameter.name] for parameter in self._kernel.params if parameter.is_constexpr]
        self._again = _Again(
            driver.get_current_device,
            driver.get_current_device(),
            driver.get_current_stream,
            compiled.run,
            (*self._grid, 1, 1)[:3],
            (compiled.function, compiled.packed_metadata, None, None, None),
            (*self._numbers, *constants),
        )


@dataclass(frozen=True, slots=True)
class _Again:
    """What Triton's launcher takes, and from whom.

    Attributes:
        current_device: gives the current device.
        device: for which the binary is loaded.
        stream_of: gives the current stream of a device.
        run: the launcher.
        grid: in three dimensions.
        binary: the kernel with its metadata; no metadata of the launch and no hooks.
        rest: what follows the tensors.
    """

    current_device: Callable[[], int]
    device: int
    stream_of: Callable[[int], int]
    run: Callable[..., None]
    grid: tuple[int, ...]
    binary: tuple[Any, ...]
    rest: tuple[Any, ...]


def planned(plan: Callable[..., _T]) -> Callable[..., _T]:
    """Decorate a function that cuts work into launches on the current device: it is called once for the same arguments.

    One more argument comes last, what :func:`place_of` gives for the tensors.
    """

    @lru_cache(maxsize=512)
    def kept(*arguments: Any) -> _T:
        *rest, place = arguments
        with torch.cuda.device(place) if isinstance(place, torch.device) else contextlib.nullcontext():
            return plan(*rest)

    return kept


def _are_on_gpu(tensors: Sequence[Tensor]) -> bool:
    return all(tensor.is_cuda for tensor in tensors)


def place_of(tensor: Tensor) -> Hashable:
    """Return what stands for the device of ``tensor`` among the arguments of what is planned."""
    # On the CPU kernels are interpreted, or run on whatever is simulated just now.
    return tensor.device if tensor.is_cuda else triton.runtime.driver._active
