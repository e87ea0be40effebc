"""``gloro-fast attack``: accuracy under attack, and a trial of the certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.grouped import shared
from gloro_fast.cli.options import (
    OPENING,
    BatchSizeOption,
    EpsilonOption,
    RunArgument,
    SeedOption,
    positive_epsilon,
    with_options,
)
from gloro_fast.cli.reporting import console, facts, percent, table
from gloro_fast.files.atomic import write_text


@shared
@with_options(OPENING)
def attack(
    run: RunArgument,
    epsilon: EpsilonOption = None,
    images: Annotated[
        int | None, typer.Option(help="Attack the first so many; all by default.", min=1, show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps a restart.", min=1)] = 100,
    restarts: Annotated[int, typer.Option(help="Random starts.", min=1)] = 3,
    auto: Annotated[bool, typer.Option("--auto-attack", help="AutoAttack as well: slow.")] = False,
    queries: Annotated[int, typer.Option(help="Steps of AutoAttack's Square attack a restart.", min=1)] = 5000,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="A .json file; RUN/attack.json by default.", show_default=False)
    ] = None,
    batch_size: BatchSizeOption = 512,
    **opening: Any,
) -> None:
    """Attack a net: its accuracy under PGD (l2), and whether any certified prediction can be changed.

    The accuracy is that of f, with pixels kept in [0, 1], as in the paper; certificates are tried without that limit.
    A certificate that breaks is an error.
    """
    from gloro_fast.cli.opened import open_run
    from gloro_fast.data import to_float
    from gloro_fast.distributed import current
    from gloro_fast.evaluate.attacked import attacked

    path = run.expanduser() / "attack.json" if out is None else output_path(out, ".json")
    if epsilon is not None:
        positive_epsilon(epsilon)
    opened, group = open_run(run, **opening), current()
    found = attacked(
        opened.net,
        to_float(opened.split.images[:images]),
        opened.split.labels[:images],
        opened.epsilon if epsilon is None else epsilon,
        steps=steps,
        restarts=restarts,
        auto=auto,
        queries=queries,
        batch_size=batch_size,
        seed=seed,
        group=group,
    )
    if not group.is_main:
        return
    with writing(path):
        write_text(path, to_json({**opened.to_dict(), **found.to_dict()}))
    out_console = console()
    out_console.print(
        facts([*opened.facts(found.images), ("certified by", found.method)], f"attacks at epsilon {found.epsilon:.6g}")
    )
    trials = [
        (trial.name, percent(trial.accuracy), f"{trial.broken:,} of {found.certified:,}", f"{trial.seconds:.1f}")
        for trial in found.trials
    ]
    rows = [("none", percent(found.clean_accuracy), "", ""), *trials, ("VRA", percent(found.vra), "", "")]
    columns = ("attack", "accuracy", "broken certificates", "seconds")
    out_console.print(table(columns, rows, numbers=columns[1:]))
    out_console.print(f"numbers: {path}")
    found.check()
