"""``gloro-fast train``: train a GloRo net by a recipe, or go on with a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gloro_fast.cli.options import RADIUS, DataDirOption, DeviceOption, DownloadOption, ThreadsOption, choice, radius
from gloro_fast.cli.reporting import console, facts, percent
from gloro_fast.errors import ConfigError

if TYPE_CHECKING:
    from gloro_fast.train import Result

_TRAINING, _NET = "Fields of the recipe: training", "Fields of the recipe: data and net"


def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe by name, or the config.toml of another run.", metavar="NAME|PATH", show_default=False
        ),
    ] = None,
    data_dir: DataDirOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; runs/ and the recipe's name by default.", metavar="RUN", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with the configuration saved there.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of a run that is in --out.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of all random numbers; 0 by default.", show_default=False)] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    download: DownloadOption = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files to RUN.")] = False,
    graphs: Annotated[
        str, typer.Option(help="Capture the steps on a GPU as CUDA graphs: on or off.", metavar="on|off")
    ] = "on",
    nondeterministic: Annotated[
        bool,
        typer.Option("--nondeterministic", help="Let a GPU use any algorithm: other bits at every run."),
    ] = False,
    tf32: Annotated[
        bool | None,
        typer.Option(
            "--tf32/--no-tf32",
            help="Train in TF32 on a GPU, or in float32; by default as torch's switches say: convolutions in TF32.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of the recipe; may be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Robust epochs; the recipe's schedules stretch with them.", rich_help_panel=_TRAINING),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.", rich_help_panel=_TRAINING)] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="The certified l2 radius, such as 0.3 or 36/255.",
            parser=radius,
            metavar=RADIUS,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    epsilon_train: Annotated[
        float | None,
        typer.Option(
            help="The radius trained with; keeps its ratio to --epsilon.",
            parser=radius,
            metavar=RADIUS,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    epsilon_schedule: Annotated[
        str | None,
        typer.Option(
            help="single, log or x,y,e; --epochs does not stretch what is given here.", rich_help_panel=_TRAINING
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="ce, trades-kl, trades-ce, emma, lmt or standard.", rich_help_panel=_TRAINING)
    ] = None,
    lam: Annotated[
        str | None,
        typer.Option(
            help="The TRADES weight: x or x,y,e; --epochs does not stretch what is given here.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's, for the first half.", rich_help_panel=_TRAINING)
    ] = None,
    learning_rate_end: Annotated[
        float | None, typer.Option(help="What it decays to in the second half.", rich_help_panel=_TRAINING)
    ] = None,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Epochs of plain cross entropy before.", rich_help_panel=_TRAINING)
    ] = None,
    power_iterations: Annotated[
        int | None, typer.Option(help="Power iterations a step.", rich_help_panel=_TRAINING)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.", rich_help_panel=_TRAINING)] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set by name, or path.", metavar="NAME|PATH", rich_help_panel=_NET)
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            help="Of an image folder without train/ and test/: the share of each class to hold out for testing; 0.2 by "
            "default.",
            rich_help_panel=_NET,
        ),
    ] = None,
    augmentation: Annotated[
        str | None, typer.Option(help="none, default, light or tfds.", rich_help_panel=_NET)
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Deviation of Gaussian noise on training images.", rich_help_panel=_NET),
    ] = None,
    validation_size: Annotated[
        int | None, typer.Option(help="Training images held out to select the epoch.", rich_help_panel=_NET)
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="2C2F, 4C3F, 6C2F, 8C2F, 8C2F-print or LiResNet-12x512 (depth x width).", rich_help_panel=_NET
        ),
    ] = None,
    activation: Annotated[str | None, typer.Option(help="minmax or relu.", rich_help_panel=_NET)] = None,
    initialization: Annotated[
        str | None, typer.Option(help="orthogonal or glorot_uniform.", rich_help_panel=_NET)
    ] = None,
) -> None:
    """Train a GloRo net, and certify the test split: by a recipe, or with --data, --architecture and --epsilon alone.

    The run folder gets the net (model.safetensors), config.toml, metrics.csv, curves.png and result.json. Ctrl-C
    saves at once, and --resume goes on bit for bit; then --out alone is enough.
    """
    from gloro_fast.cli.overrides import recipe_fields
    from gloro_fast.cli.runs import RunRequest, begin, go_on
    from gloro_fast.train import Interrupted

    request = RunRequest(
        recipe=recipe,
        fields=recipe_fields(context.params, settings or []),
        data_dir=data_dir,
        out=out,
        seed=seed,
        device=device,
        threads=threads,
        download=download,
        tensorboard=tensorboard,
        graphs=choice("--graphs", graphs, ("on", "off")) == "on",
        deterministic=False if nondeterministic else None,
        test_share=test_share,
        tf32=tf32,
    )
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it; choose one of the two")
    trainer = go_on(request) if resume else begin(request, overwrite=overwrite)
    try:
        result = trainer.fit()
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        raise typer.Exit(128 + stop.signal) from stop
    _print_result(result, trainer.folder.path)


def _print_result(result: Result, folder: Path) -> None:
    lower, median, upper = result.radius_quartiles
    rows = [
        ("recipe", result.recipe),
        ("data", f"{result.data}, {result.test_images:,} test images"),
        ("data note", result.data_note),
        ("clean accuracy", percent(result.clean_accuracy)),
        (f"VRA at epsilon {result.epsilon:.6g}", percent(result.vra)),
        ("certified radius", f"median {median:.4g}, quartiles {lower:.4g} to {upper:.4g} (0 where wrong)"),
        ("Lipschitz constant", f"{result.lipschitz:.6g}"),
        ("method of the bound", result.method),
        ("seconds", f"{result.seconds:.1f}, {result.seconds_per_epoch:.3g} an epoch"),
        ("run folder", str(folder)),
    ]
    console().print(facts(rows, "result"))
