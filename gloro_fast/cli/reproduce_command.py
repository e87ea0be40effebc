"""``gloro-fast reproduce``: train by a recipe, measure everything, and set the row beside the paper's."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gloro_fast.cli.options import DataDirOption, DeviceOption, DownloadOption, MethodOption, SeedOption, ThreadsOption
from gloro_fast.cli.reporting import console, table
from gloro_fast.errors import ConfigError

if TYPE_CHECKING:
    from gloro_fast.cli.reproduced import Reproduction


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="A recipe; --list shows them, with the paper's rows.", show_default=False)
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
    """Reproduce a row of the paper: train, certify, attack, bound from below, time, and report.

    The report, Markdown with JSON and pictures, has this run's row beside the paper's. It can be stopped anywhere;
    --resume goes on from there.
    """
    if show:
        _list()
        return
    if name is None:
        raise ConfigError("no recipe is named; gloro-fast reproduce --list shows them")
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it; choose one of the two")
    # Read when torch is loaded: its profiler, which counts bytes, writes notes to the error stream otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from gloro_fast.bounds import check_method
    from gloro_fast.cli.reproduced import Reproduction
    from gloro_fast.reproduce.effort import QUICK, Effort
    from gloro_fast.train import Interrupted

    effort = QUICK if quick else Effort()
    if method is not None:
        check_method(method)
        effort = dataclasses.replace(effort, method=method)
    if attack_images is not None:
        effort = dataclasses.replace(effort, attack_images=attack_images)
    if pairs is not None:
        effort = dataclasses.replace(effort, pairs=pairs)
    work = Reproduction(
        name=name,
        label=name if label is None else label,
        fields=_fields(epochs, data, settings or []),
        command=_command(
            name, epochs, settings or [], label, quick, attack_images, pairs, method, auto_attack, data, seed
        ),
        effort=dataclasses.replace(effort, auto_attack=auto_attack),
        quick=quick,
        reports=out,
        runs=runs,
        seed=seed,
        data_dir=data_dir,
        device=device,
        threads=threads,
        download=download,
        resume=resume,
        overwrite=overwrite,
    )
    try:
        _print(work)
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        raise typer.Exit(128 + stop.signal) from stop


def _fields(epochs: int | None, data: str | None, settings: list[str]) -> dict[str, Any]:
    from gloro_fast.cli.overrides import recipe_fields

    return recipe_fields({"epochs": epochs, "data": data}, settings)


def _command(
    name: str,
    epochs: int | None,
    settings: list[str],
    label: str | None,
    quick: bool,
    attack_images: int | None,
    pairs: int | None,
    method: str | None,
    auto_attack: bool,
    data: str | None,
    seed: int,
) -> str:
    """Write the command that makes the report again; places on this machine are left out."""
    from gloro_fast import data as data_sets

    place = None if data is None else data if data in data_sets.NAMES else "PATH"
    options = [
        ("--epochs", epochs),
        ("--label", label),
        ("--attack-images", attack_images),
        ("--pairs", pairs),
        ("--method", method),
        ("--data", place),
        ("--seed", seed or None),
    ]
    words = [f"{option} {value}" for option, value in options if value is not None]
    words += [f"--set {setting}" for setting in settings]
    words += [flag for flag, given in (("--quick", quick), ("--auto-attack", auto_attack)) if given]
    return " ".join(["gloro-fast reproduce", name, *words])


def _print(work: Reproduction) -> None:
    folder = work.run()
    text = (folder / "README.md").read_text(encoding="utf-8")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    typer.echo("\n\n".join([*tables, f"report: {folder}"]))


def _list() -> None:
    from gloro_fast.recipes import RECIPES
    from gloro_fast.recipes.paper import ROWS, TIGHTNESS

    rows = []
    for name, recipe in RECIPES.items():
        paper = ROWS.get(name)
        figures = [paper.figure] if paper is not None else []
        certifies = recipe.loss not in ("standard", "lmt")
        figures += ["Figure 4b"] if (recipe.data, recipe.architecture) == ("cifar10", "6C2F") and certifies else []
        figures += ["Figure 4c"] if recipe.data in TIGHTNESS and certifies else []
        cells = (None, None, None) if paper is None else (paper.clean, paper.pgd, paper.vra)
        numbers = [f"{cell:g}" if cell is not None else "-" for cell in cells]
        rows.append((name, ", ".join(figures) or "none", "-" if paper is None else paper.method, *numbers))
    columns = ("recipe", "of the paper", "the paper's method", "clean %", "PGD %", "VRA %")
    console().print(table(columns, rows, numbers=columns[3:]))
