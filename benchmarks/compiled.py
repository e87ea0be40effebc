"""torch.compile as a contender, where it works."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.interleaving import Job

NAME = "torch.compile"


def add_compiled(
    contenders: dict[str, Job], left_out: dict[str, str], make: Callable[[], Job], *, quick: bool, here: bool = True
) -> None:
    """Add a compiled contender, run once so that its compilation is over; or note why it cannot run here.

    Args:
        contenders: to add it to.
        left_out: to note the reason in.
        make: makes the job, whose first call compiles.
        quick: whether to leave it out, since compiling takes up to a minute.
        here: whether this is one of the job's cases that are compiled.
    """
    if quick:
        left_out[NAME] = "left out of the quick run"
        return
    if not here:
        left_out[NAME] = "compiling takes up to a minute; other cases of this job have it"
        return
    try:
        job = make()
        job()
    except Exception as error:  # whatever the compiler of this machine fails with
        left_out[NAME] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
        return
    contenders[NAME] = job
