"""``gloro-fast report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gloro_fast.cli.files import output_path, writing
from gloro_fast.cli.options import (
    OPENING,
    BatchSizeOption,
    EpsilonOption,
    ExecutedOption,
    RunArgument,
    positive_epsilon,
    with_options,
)
from gloro_fast.files.atomic import write_text


@with_options(OPENING)
def report(
    run: RunArgument,
    epsilon: EpsilonOption = None,
    executed: ExecutedOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The page, a .html file; RUN/report.html by default.", show_default=False),
    ] = None,
    batch_size: BatchSizeOption = 512,
    **opening: Any,
) -> None:
    """Write a run as one HTML page that needs nothing beside it.

    Curves, VRA over the radius, confusion among the certified, the least certain images, the bound of each layer with
    its excess over the lower estimate, cost, and what was run.
    """
    from gloro_fast.cli.evaluated import evaluate_run
    from gloro_fast.report import Contents, html_page
    from gloro_fast.train.run_folder import RunFolder

    page = run.expanduser() / "report.html" if out is None else output_path(out, ".html")
    if epsilon is not None:
        positive_epsilon(epsilon)
    found = evaluate_run(run, executed=executed, batch_size=batch_size, keep_logits=True, **opening)
    contents = Contents.of(
        RunFolder(run),
        found.config,
        found.net,
        found.evaluation,
        found.split,
        class_names=found.class_names,
        epsilon=found.epsilon if epsilon is None else epsilon,
        data=found.data,
        data_note=found.data_note,
        part=found.split_name,
    )
    with writing(page):
        write_text(page, html_page(contents))
    typer.echo(f"page: {page}")
