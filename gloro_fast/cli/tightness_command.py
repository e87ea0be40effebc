"""``gloro-fast tightness``: the upper bound of a net against lower bounds found by optimization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.options import (
    DataDirOption,
    DataOption,
    DeviceOption,
    MethodOption,
    RunArgument,
    SeedOption,
    SplitOption,
    ThreadsOption,
)
from gloro_fast.cli.reporting import console, facts, percent, table
from gloro_fast.files.atomic import write_text


def tightness(
    run: RunArgument,
    data: DataOption = None,
    data_dir: DataDirOption = None,
    split: SplitOption = "test",
    method: MethodOption = None,
    pairs: Annotated[int, typer.Option(help="Initial pairs of images, and balls.", min=1)] = 100,
    global_steps: Annotated[int, typer.Option(help="Gradient steps for the global bound, at most.", min=1)] = 7500,
    local_steps: Annotated[int, typer.Option(help="Gradient steps for the local bounds, at most.", min=1)] = 5000,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The picture, a .png file; RUN/tightness.png by default. The numbers go beside it as .json.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Bound the Lipschitz constants of a net from both sides, as the paper's Figure 4c does.

    The lower bounds are slopes between points that an optimization finds: the steepest pair anywhere, and the mean of
    the steepest in balls around images. One above a rigorous upper bound means that something is wrong: an error.
    """
    from gloro_fast.cli.opened import open_run
    from gloro_fast.data import to_float
    from gloro_fast.evaluate.tightness import tightness as measure
    from gloro_fast.evaluate.tightness_picture import draw_tightness
    from gloro_fast.recipes.paper import TIGHTNESS

    picture = run.expanduser() / "tightness.png" if out is None else output_path(out, ".png")
    opened = open_run(run, data=data, data_dir=data_dir, split=split, method=method, device=device, threads=threads)
    found = measure(
        opened.net,
        to_float(opened.split.images),
        opened.epsilon,
        pairs=pairs,
        global_steps=global_steps,
        local_steps=local_steps,
        seed=seed,
    )
    # The paper's figure is for its own data set, whatever that is called here.
    paper = TIGHTNESS.get(opened.config.recipe.data)
    numbers = picture.with_suffix(".json")
    with writing(picture):
        draw_tightness(found, picture, paper=paper, title=opened.title, note=opened.data_note)
        write_text(numbers, to_json({**opened.to_dict(), **found.to_dict(), "seed": seed}))
    theirs = (
        ("", "")
        if paper is None
        else (f"{paper.global_ratio:.0%}", " to ".join(f"{ratio:.0%}" for ratio in paper.local_ratio))
    )
    rows: list[Sequence[str]] = [
        ("upper", f"{found.upper:.6g}", "", "", found.method),
        (
            "global lower",
            f"{found.global_lower:.6g}",
            percent(found.global_ratio),
            theirs[0],
            f"{found.global_steps} steps",
        ),
        (
            "local lower",
            f"{found.local_lower:.6g}",
            percent(found.local_ratio),
            theirs[1],
            f"{found.local_steps} steps",
        ),
    ]
    columns = ["bound", "Lipschitz constant", "of the upper", "the paper's", "by"]
    if paper is None:
        del columns[3]
        rows = [[*row[:3], *row[4:]] for row in rows]
    out_console = console()
    out_console.print(facts(opened.facts(), "tightness"))
    out_console.print(table(columns, rows, numbers=columns[1:-1]))
    out_console.print(f"picture: {picture}\nnumbers: {numbers}")
