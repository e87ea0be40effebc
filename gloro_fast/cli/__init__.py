"""The command line, one file a command. Commands import what they need when they run, so that help comes at once.

Stands on everything, and only the entry point calls it. The file of a command ``x`` is ``x_command``.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from gloro_fast._version import __version__
from gloro_fast.cli.attack_command import attack
from gloro_fast.cli.audit_command import audit
from gloro_fast.cli.certify_command import certify
from gloro_fast.cli.doctor_command import doctor
from gloro_fast.cli.evaluate_command import evaluate
from gloro_fast.cli.export_command import export
from gloro_fast.cli.import_keras_command import import_keras
from gloro_fast.cli.info_command import info
from gloro_fast.cli.recipes_command import recipes
from gloro_fast.cli.report_command import report
from gloro_fast.cli.reporting import Commands
from gloro_fast.cli.reproduce_command import reproduce
from gloro_fast.cli.serve_command import serve
from gloro_fast.cli.smooth_command import smooth
from gloro_fast.cli.tightness_command import tightness
from gloro_fast.cli.train_command import train

app = typer.Typer(
    cls=Commands,
    name="gloro-fast",
    help="Train GloRo nets, certify their predictions against l2 perturbations, and evaluate them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (
    train,
    certify,
    audit,
    evaluate,
    report,
    attack,
    tightness,
    smooth,
    reproduce,
    export,
    serve,
    recipes,
    import_keras,
    info,
    doctor,
)
for _command in _COMMANDS:
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gloro-fast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on stderr how long each layer of a net takes to bound.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if verbose:
        log, handler = logging.getLogger("gloro_fast"), logging.StreamHandler(sys.stderr)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        context.call_on_close(lambda: log.removeHandler(handler))


def main() -> None:
    """Run the command line: the entry point of ``gloro-fast``."""
    app(prog_name="gloro-fast")
