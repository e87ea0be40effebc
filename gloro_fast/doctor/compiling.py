"""Compiling all kernels that the checks launch before they run, several at a time.

Triton compiles a kernel when it is first launched, so one after the other: of the 61 that the checks of MinMax, the
margin, the losses, the head's distances and signing launch, each takes 0.1 to 2.3 s of a core. It holds the
interpreter's lock for a twelfth of that (its front end; measured with triton 3.6 and 3.8), so threads are enough. What
the CPU does without an op, as the product and the statistics, is compiled by its check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast.native import dispatch

_MOST_TRIES = 5


def compile_kernels(checks: Iterable[Callable[[torch.device], Iterator[str | None]]]) -> None:
    """Compile, for Triton's current device, every kernel that the checks would launch on a GPU.

    The checks run on the CPU, whose ops give them the results to go on with; beside each of those the op's function
    for the GPU gets the same tensors, and its launches compile instead. What does not compile here is left to the
    check.
    """
    from triton import AsyncCompileMode

    # Outermost, until the last thread is done.
    with _launches_compile(), ThreadPoolExecutor() as pool, AsyncCompileMode(pool, ignore_errors=True), _BothDevices():  # type: ignore[no-untyped-call]
        for check in checks:
            for _ in check(torch.device("cpu")):
                pass


class _BothDevices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls the function for GPUs beside each of our ops on the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        on_gpu = dispatch.implementation(func.name()) if func.namespace == "gloro_fast" else None
        if on_gpu is not None:
            on_gpu(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _launches_compile() -> Iterator[None]:
    """Make each launch of a Triton kernel what ``warmup`` is: it specialises and compiles, and touches no memory."""
    from triton.runtime.jit import JITFunction

    run, parse, one_at_a_time = JITFunction.run, JITFunction.parse, Lock()

    def parse_alone(self: Any) -> Any:
        # Threads that parse at once confuse Python 3.11: "AST constructor recursion depth mismatch", now and then. The
        # lock keeps Triton's apart; whoever else parses in the same moment makes it raise, and it may parse again.
        with one_at_a_time:
            for _ in range(_MOST_TRIES - 1):
                with suppress(SystemError):
                    return parse(self)
            return parse(self)

    JITFunction.run = lambda self, *args, grid, warmup, **options: run(self, *args, grid=grid, warmup=True, **options)
    JITFunction.parse = parse_alone
    try:
        yield
    finally:
        JITFunction.run, JITFunction.parse = run, parse
