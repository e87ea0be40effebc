"""Sharing out the minutes of a run among its benchmarks, each of which takes some seconds to set up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# What a job takes beside its rounds, on average: a training step starts processes, the others only make tensors.
_SET_UP = 4.0
_COMPILING = 60.0


class Budget:
    """Says how long a benchmark may measure, so that all of them end in time.

    Args:
        seconds: for all benchmarks together; None for no limit.
        jobs: how many benchmarks there are.
        quick: whether this is the quick run.
        clock: gives seconds.
    """

    def __init__(
        self, seconds: float | None, jobs: int, *, quick: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds
        self._jobs = jobs
        self._quick = quick

    def begin(self) -> None:
        """Note that another benchmark begins."""
        self._jobs -= 1

    def rounds(self, wanted: float) -> float:
        """Return the seconds for the rounds of the benchmark that runs: at most ``wanted``, at least 0."""
        return max(0.0, min(wanted, self._spare() / (self._jobs + 1)))

    def why_not_compile(self) -> str | None:
        """Say why torch.compile is left out; None if there is time for it."""
        if self._quick:
            return "left out of the quick run"
        return None if self._spare() >= _COMPILING else "compiling may take a minute, which this run has not left"

    def _spare(self) -> float:
        """Seconds that are left for rounds and compiling once the benchmarks to come are set up."""
        return self._end - self._clock() - self._jobs * _SET_UP
