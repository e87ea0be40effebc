"""torch.compile as a contender, where it works."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.budget import Budget
from benchmarks.candidates import add_if_it_runs
from benchmarks.interleaving import Job

NAME = "torch.compile"


def add_compiled(
    contenders: dict[str, Job], left_out: dict[str, str], make: Callable[[], Job], *, budget: Budget, here: bool = True
) -> None:
    """Add a compiled contender, run once so that its compilation is over; or note why it cannot run here.

    Args:
        contenders: to add it to.
        left_out: to note the reason in.
        make: makes the job, whose first call compiles.
        budget: says whether there is time for it.
        here: whether this is one of the job's cases that are compiled.
    """
    why_not = budget.why_not_compile()
    if why_not is None and not here:
        why_not = "compiling takes up to a minute; other cases of this job have it"
    if why_not is None:
        add_if_it_runs(contenders, left_out, NAME, make)
    else:
        left_out[NAME] = why_not
