"""A run on a GPU ends in its minutes, however long its benchmarks would like to measure."""

from __future__ import annotations

import pytest

from benchmarks.budget import _COMPILING, _SET_UP, Budget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("minutes", [5, 2])
def test_the_run_ends_in_time(minutes: float) -> None:
    """37 benchmarks that would measure for 18 seconds each, and compile for a minute where they may."""
    clock, compiled, measured = Clock(), 0, []
    budget = Budget(60.0 * minutes, 37, clock=clock)
    for _ in range(37):
        budget.begin()
        clock.now += _SET_UP / 2
        if budget.why_not_compile() is None:
            compiled += 1
            clock.now += _COMPILING
        measured.append(budget.rounds(18.0))
        clock.now += measured[-1]
    assert clock.now <= max(60 * minutes, 37 * _SET_UP)
    assert min(measured) >= 0
    assert compiled <= minutes / 2


def test_without_a_limit_all_is_measured_in_full() -> None:
    budget = Budget(None, 2)
    budget.begin()
    assert budget.rounds(18.0) == 18.0
    assert budget.why_not_compile() is None


def test_the_last_benchmark_may_use_up_what_is_left() -> None:
    clock = Clock()
    budget = Budget(60.0, 1, clock=clock)
    budget.begin()
    clock.now = 50.0
    assert budget.rounds(18.0) == 10.0
    clock.now = 70.0
    assert budget.rounds(18.0) == 0.0
    assert "has not left" in str(budget.why_not_compile())


def test_the_quick_run_compiles_nothing() -> None:
    assert Budget(None, 1, quick=True).why_not_compile() == "left out of the quick run"
