"""Choosing the strongest form of a comparator before it is measured, and leaving out what cannot run."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import TypeVar

from benchmarks.interleaving import Job

_K = TypeVar("_K", bound=Hashable)
_WARM_UP = 2


def fastest(candidates: Mapping[_K, Job], synchronize: Job, rounds: int) -> tuple[_K, dict[_K, float]]:
    """Return the candidate with the smallest median over interleaved rounds.

    The rounds that decide are not those that are reported: the winner is measured anew, so that it owes nothing to
    luck.

    Args:
        candidates: name to job.
        synchronize: waits for the device.
        rounds: how many decide, after two of warm-up.

    Returns:
        Its name, and the median seconds of all.
    """
    seconds: dict[_K, list[float]] = {name: [] for name in candidates}
    for _ in range(_WARM_UP + rounds):
        for name, job in candidates.items():
            start = time.perf_counter()
            job()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: median(values[_WARM_UP:]) for name, values in seconds.items()}
    return min(medians, key=medians.__getitem__), medians


def add_if_it_runs(contenders: dict[str, Job], left_out: dict[str, str], name: str, make: Callable[[], Job]) -> None:
    """Add a contender, run once so that what its first call sets up is done; or note why it cannot run here.

    Args:
        contenders: to add it to.
        left_out: to note the reason in.
        name: of the contender.
        make: makes the job.
    """
    try:
        job = make()
        job()
    except Exception as error:  # whatever this machine's compiler or driver fails with
        left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
        return
    contenders[name] = job
