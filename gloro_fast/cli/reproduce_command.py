"""``gloro-fast reproduce``: train by a recipe, measure everything, and set the row beside the paper's."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gloro_fast.cli.options import DataDirOption, DeviceOption, DownloadOption, MethodOption, SeedOption, ThreadsOption
from gloro_fast.cli.reporting import console, table
from gloro_fast.errors import ConfigError


def reproduce(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A recipe; --list shows them, with the paper's rows.", show_default=False)
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Every row of the paper that data are there for: --data-dir holds MNIST, cifar-10-batches-py, ..., "
            "or a folder of each data set's name.",
        ),
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="With --all: cut epochs and what is measured so that all of it fits; by default nothing is cut.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the recipes with the paper's rows beside them.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Robust epochs; the recipe's schedules stretch with them.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of the recipe; may be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Name of the report, where it is not the recipe's.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on; what is finished is not repeated.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of an earlier run.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Cut short what is measured after training.")] = False,
    attack_images: Annotated[
        int | None, typer.Option(help="Test images to attack; all by default.", min=1, show_default=False)
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(help="Pairs, and balls, of the lower bounds; 100 by default.", min=1, show_default=False),
    ] = None,
    method: MethodOption = None,
    auto_attack: Annotated[bool, typer.Option("--auto-attack", help="Run AutoAttack too: slow.")] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Another data set by name, or path.", metavar="NAME|PATH", show_default=False),
    ] = None,
    data_dir: DataDirOption = None,
    out: Annotated[Path, typer.Option(help="Where reports go, each in a folder of its name.")] = Path("reports"),
    runs: Annotated[Path, typer.Option(help="Where runs go.")] = Path("runs/reproduce"),
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    download: DownloadOption = False,
) -> None:
    """Reproduce a row of the paper, or all of them: train, certify, attack, bound from below, time, and report.

    The report, Markdown with JSON and pictures, has this run's row beside the paper's. It can be stopped anywhere;
    --resume goes on from there.
    """
    if show:
        _list()
        return
    if everything:
        _check_all(context.params)
    elif name is None:
        raise ConfigError("no recipe is named; gloro-fast reproduce --list shows them, and --all runs the paper's rows")
    elif minutes is not None:
        raise ConfigError("--minutes is for --all; a single row has --epochs, --attack-images and --pairs")
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it; choose one of the two")
    # Read when torch is loaded: its profiler, which counts bytes, writes notes to the error stream otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from gloro_fast.bounds import check_method
    from gloro_fast.cli.overrides import recipe_fields
    from gloro_fast.cli.reproduced import Reproduction
    from gloro_fast.cli.reproduced_all import AllRows
    from gloro_fast.cli.runs import RunRequest
    from gloro_fast.reproduce.effort import QUICK, Effort
    from gloro_fast.train import Interrupted, keep_freed_memory

    if method is not None:
        check_method(method)
    given = {"method": method, "attack_images": attack_images, "pairs": pairs, "auto_attack": auto_attack}
    chosen: dict[str, Any] = {setting: value for setting, value in given.items() if value is not None}
    request = RunRequest(
        recipe=name,
        fields=recipe_fields({"epochs": epochs, "data": data}, settings or []),
        data_dir=data_dir,
        seed=seed,
        device=device,
        threads=threads,
        download=download,
    )
    common: dict[str, Any] = {
        "request": request,
        "command": _command(context.params),
        "effort": dataclasses.replace(QUICK if quick else Effort(), **chosen),
        "quick": quick,
        "reports": out,
        "runs": runs,
        "seed": seed,
        "resume": resume,
        "overwrite": overwrite,
    }
    keep_freed_memory()
    try:
        if name is None:
            folder, whole = AllRows(minutes=minutes, **common).run()
        else:
            folder, whole = Reproduction(name=name, label=name if label is None else label, **common).run(), True
        # Of all rows one table is enough; the others have figures of the paper that stand as they are.
        _print(folder, tables=1 if everything else None)
        if not whole:
            raise typer.Exit(1)
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        raise typer.Exit(128 + stop.signal) from stop


def _command(given: Mapping[str, Any]) -> str:
    """Write the command that makes the report again; places on this machine are left out."""
    from gloro_fast import data as data_sets

    data = given["data"] if given["data"] in (None, *data_sets.NAMES) else "PATH"
    options = {**given, "data": data, "seed": given["seed"] or None}
    valued = ("minutes", "epochs", "label", "attack_images", "pairs", "method", "data", "seed")
    words = [f"--{name.replace('_', '-')} {_spelt(options[name])}" for name in valued if options[name] is not None]
    words += [f"--set {setting}" for setting in given["settings"] or []]
    words += [f"--{flag.replace('_', '-')}" for flag in ("quick", "auto_attack") if given[flag]]
    return " ".join(["gloro-fast reproduce", given["name"] or "--all", *words])


def _spelt(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_all(given: Mapping[str, Any]) -> None:
    """Refuse what is for one row.

    Raises:
        ConfigError: something is; names it.
    """
    alone = {"name": "a recipe", "settings": "--set"}
    alone |= {name: f"--{name.replace('_', '-')}" for name in ("epochs", "label", "data", "auto_attack")}
    wrong = [option for name, option in alone.items() if given[name]]
    if wrong:
        raise ConfigError(f"--all runs every row by its recipe; leave {' and '.join(wrong)} out, or --all")
    minutes = given["minutes"]
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise ConfigError(f"--minutes is {minutes:g}; it must be a number greater than 0")


def _print(folder: Path, tables: int | None) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = [block for block in text.split("\n\n") if block.startswith("|")]
    typer.echo("\n\n".join([*found[:tables], f"report: {folder}"]))


def _list() -> None:
    from gloro_fast.losses import LOSSES
    from gloro_fast.recipes import RECIPES
    from gloro_fast.recipes.paper import ROWS, TIGHTNESS

    rows = []
    for name, recipe in RECIPES.items():
        paper = ROWS.get(name)
        figures = [paper.figure] if paper is not None else []
        loss = LOSSES[recipe.loss]
        certifies = loss.with_bottom and loss.margins == "rows"
        figures += ["Figure 4b"] if (recipe.data, recipe.architecture) == ("cifar10", "6C2F") and certifies else []
        figures += ["Figure 4c"] if recipe.data in TIGHTNESS and certifies else []
        cells = (None, None, None) if paper is None else (paper.clean, paper.pgd, paper.vra)
        numbers = [f"{cell:g}" if cell is not None else "-" for cell in cells]
        rows.append((name, ", ".join(figures) or "none", "-" if paper is None else paper.method, *numbers))
    columns = ("recipe", "of the paper", "the paper's method", "clean %", "PGD %", "VRA %")
    console().print(table(columns, rows, numbers=columns[3:]))
