"""Interleaved rounds through pytest-benchmark: each round runs every contender once, in an order of its own."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

Job = Callable[[], object]
_WARM_UP = 2


def at_once() -> None:
    """Wait for nothing."""


class Pedantic(Protocol):
    """The part of pytest-benchmark's fixture that is used here."""

    def pedantic(
        self, target: Job, *, setup: Callable[[], None], teardown: Callable[[], None], rounds: int
    ) -> object: ...


class Rounds:
    """Times all contenders but the first around the runs of the first, which somebody else times.

    Args:
        contenders: at least one; each call is one job, waited for.
        timer: gives seconds.
        settle: called, not timed, before every job.
        seed: decides the orders.

    Attributes:
        seconds: what each of the others took, round by round.
    """

    def __init__(
        self, contenders: Mapping[str, Job], timer: Callable[[], float], settle: Job = at_once, seed: int = 0
    ) -> None:
        self._contenders = dict(contenders)
        self._first = next(iter(contenders))
        self._timer = timer
        self._settle = settle
        self._random = random.Random(seed)
        self._after: list[str] = []
        self.seconds: dict[str, list[float]] = {name: [] for name in contenders if name != self._first}

    def before(self) -> None:
        """Draw the order of a round and run those that come before the first contender."""
        order = list(self._contenders)
        self._random.shuffle(order)
        place = order.index(self._first)
        self._after = order[place + 1 :]
        self._run(order[:place])
        self._settle()

    def after(self) -> None:
        """Run those that come after it."""
        self._run(self._after)

    def _run(self, names: list[str]) -> None:
        for name in names:
            self._settle()
            start = self._timer()
            self._contenders[name]()
            self.seconds[name].append(self._timer() - start)


def interleave(
    benchmark: Pedantic,
    contenders: Mapping[str, Job],
    *,
    seconds: float,
    least: int,
    most: int = 200,
    timer: Callable[[], float] = time.perf_counter,
    settle: Job = at_once,
) -> dict[str, list[float]]:
    """Run as many rounds as fit in ``seconds``, garbage collection off.

    Args:
        benchmark: pytest-benchmark's fixture; it times the first contender.
        contenders: name to job; every call must wait for its device.
        seconds: for all rounds together, after two of warm-up.
        least: rounds at least, however long they take.
        most: rounds at most.
        timer: for the contenders after the first.
        settle: called, not timed, before every job.

    Returns:
        The seconds of every contender, round by round: the lists are paired.
    """
    for _ in range(_WARM_UP):
        start = timer()
        for job in contenders.values():
            settle()
            job()
        round_seconds = timer() - start
    count = max(least, min(most, int(seconds / max(round_seconds, 1e-9))))
    rounds = Rounds(contenders, timer, settle)
    first: list[float] = []
    target = next(iter(contenders.values()))

    def timed() -> None:
        # pytest-benchmark keeps its own durations; this list is for the pairs, by the same clock as the others.
        start = timer()
        target()
        first.append(timer() - start)

    with _no_garbage_collection():
        benchmark.pedantic(timed, setup=rounds.before, teardown=rounds.after, rounds=count)
    return {next(iter(contenders)): first, **rounds.seconds}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
