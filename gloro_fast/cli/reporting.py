"""How commands speak: tables on stdout, errors and warnings as single lines on stderr, exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

import typer
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from typer.core import TyperGroup

from gloro_fast.errors import GloroFastError, PeerError
from gloro_fast.progress import heartbeat

BAD_INPUT = 2
_PIPED_WIDTH = 160

# What parsing the arguments raises; Typer exports only this descendant of it, and newer ones bring their own Click.
_UsageError: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """The commands, with one rule for what goes wrong in any of them.

    What the package raises on purpose is one line on stderr, said by one process of a group, and exit code 2, and so
    are options that do not exist or cannot be read. An interrupted training exits with 128 + the signal's number.
    Anything else is a fault of the program: its traceback shows.
    """

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the arguments that come before the command; without any, the help shows."""
        with _errors_in_one_line() if args else nullcontext():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that ``ctx`` holds."""
        with _warnings_in_one_line(), _errors_in_one_line(), heartbeat("working"):
            return super().invoke(ctx)


def console() -> Console:
    """Return the console for results: the terminal's width, and enough for a table where output is piped."""
    # Names of files and data sets are text, not markup.
    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=_PIPED_WIDTH)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", numbers: Sequence[str] = ()
) -> Table:
    """Lay out rows under columns; the first is never broken, those named in ``numbers`` are set to the right."""
    result = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        justify: JustifyMethod = "right" if column in numbers else "left"
        result.add_column(column, justify=justify, overflow="fold", no_wrap=column == columns[0])
    for row in rows:
        result.add_row(*row)
    return result


def facts(rows: Iterable[tuple[str, str]], title: str) -> Table:
    """Lay out names beside values, leaving out those that are empty."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=False)
    result.add_column(style="dim", no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in rows:
        if value:
            result.add_row(name, value)
    return result


def percent(share: float) -> str:
    """Write a share in [0, 1] as a percentage."""
    return f"{share:.2%}"


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except PeerError as error:
        raise typer.Exit(BAD_INPUT) from error
    except (GloroFastError, _UsageError) as error:
        reason = error.format_message() if isinstance(error, _UsageError) else error
        typer.echo(f"error: {_one_line(reason)}", err=True)
        raise typer.Exit(BAD_INPUT) from error


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show each warning as one line, and once for the place that gives it, however its numbers differ."""
    seen: set[tuple[type[Warning], str, int]] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        place = (category, filename, lineno)
        if place not in seen:
            seen.add(place)
            print(f"warning: {_one_line(message)}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
