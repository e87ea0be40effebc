"""torch.compile as a contender, where it works."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.interleaving import Job

NAME = "torch.compile"


def add_compiled(
    contenders: dict[str, Job], left_out: dict[str, str], make: Callable[[], Job], quick: bool, name: str = NAME
) -> None:
    """Add a compiled contender, run once so that its compilation is over; or note why it cannot run here.

    Args:
        contenders: to add it to.
        left_out: to note the reason in.
        make: makes the job, whose first call compiles.
        quick: whether to leave it out, since compiling takes up to a minute.
        name: of the contender.
    """
    if quick:
        left_out[name] = "left out of the quick run"
        return
    try:
        job = make()
        job()
    except Exception as error:  # whatever the compiler of this machine fails with
        left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]
        return
    contenders[name] = job
