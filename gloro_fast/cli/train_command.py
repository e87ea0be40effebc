"""``gloro-fast train``: train a GloRo net by a recipe, or go on with a run that was stopped."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gloro_fast.cli.options import (
    RADIUS,
    DataDirOption,
    DeviceOption,
    DownloadOption,
    ThreadsOption,
    choice,
    radius,
    with_options,
)
from gloro_fast.cli.reporting import console, facts, percent
from gloro_fast.errors import ConfigError
from gloro_fast.losses import LOSSES
from gloro_fast.recipes import Recipe

if TYPE_CHECKING:
    from gloro_fast.train import Result

_TRAINING, _NET = "Fields of the recipe: training", "Fields of the recipe: data and net"
# Of each field with an option of its own.
_HELP = {
    "epochs": (_TRAINING, "Robust epochs; the recipe's schedules stretch with them."),
    "batch_size": (_TRAINING, "Images a step."),
    "epsilon": (_TRAINING, "The certified l2 radius, such as 0.3 or 36/255."),
    "epsilon_train": (_TRAINING, "The radius trained with; keeps its ratio to --epsilon."),
    "epsilon_schedule": (_TRAINING, "single, log or x,y,e; --epochs does not stretch what is given here."),
    "loss": (_TRAINING, f"{', '.join(LOSSES)}."),
    "lam": (
        _TRAINING,
        "The weight of trades, macer and verified-error: x or x,y,e; --epochs does not stretch what is given here.",
    ),
    "optimizer": (_TRAINING, "adam or muon."),
    "learning_rate": (_TRAINING, "For the first half."),
    "learning_rate_end": (_TRAINING, "What it decays to in the second half."),
    "weight_decay": (_TRAINING, "Decoupled; with muon spectral norms stay below about its reciprocal."),
    "warmup_epochs": (_TRAINING, "Epochs of plain cross entropy before."),
    "power_iterations": (_TRAINING, "Power iterations a step."),
    "precision": (_TRAINING, "float32 or bfloat16."),
    "data": (_NET, "Data set by name, or path."),
    "augmentation": (_NET, "none, crop, default, light or tfds."),
    "noise": (_NET, "Deviation of Gaussian noise on training images."),
    "validation_size": (_NET, "Training images held out to select the epoch."),
    "architecture": (
        _NET,
        "2C2F, 4C3F, 6C2F, 8C2F, 8C2F-print, MLP-2x256 (depth x width), LiResNet-12x512 (-Cholesky, -LLN behind it) or "
        "BRONet-12x512.",
    ),
    "activation": (_NET, "minmax or relu."),
    "initialization": (_NET, "orthogonal or glorot_uniform."),
}


def _options() -> dict[str, tuple[Any, None]]:
    """Make an option for each of these fields; None stands for one that is not given."""
    found: dict[str, tuple[Any, None]] = {}
    for name, (panel, text) in _HELP.items():
        kind, option = typing.get_type_hints(Recipe)[name], typer.Option(help=text, rich_help_panel=panel)
        if name in ("epsilon", "epsilon_train"):
            option.parser, option.metavar = radius, RADIUS
        if name == "data":
            option.metavar = "NAME|PATH"
        found[name] = Annotated[kind | None, option], None
    return found


@with_options(_options())
def train(
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
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell a tracker of experiments of the run; may be repeated. --tensorboard is the first of them.",
            metavar="tensorboard|wandb|mlflow",
            show_default=False,
        ),
    ] = None,
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
    test_share: Annotated[
        float | None,
        typer.Option(
            help="Of an image folder without train/ and test/: the share of each class to hold out for testing; 0.2 by "
            "default.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of the recipe; may be repeated.", metavar="FIELD=VALUE"),
    ] = None,
    **fields: Any,
) -> None:
    """Train a GloRo net, and certify the test split: by a recipe, or with --data, --architecture and --epsilon alone.

    The run folder gets the net (model.safetensors), config.toml, metrics.csv, curves.png and result.json. Ctrl-C
    saves at once, and --resume goes on bit for bit; then --out alone is enough.

    Under torchrun (torchrun --nproc-per-node 2 -m gloro_fast train ...) the processes share each batch; started anew by
    it after a failure, they go on by themselves.
    """
    from gloro_fast.cli.grouped import grouped
    from gloro_fast.cli.options import usable_device
    from gloro_fast.cli.overrides import recipe_fields
    from gloro_fast.cli.runs import TRACKERS, RunRequest, after_restart, begin, go_on
    from gloro_fast.train import Interrupted, keep_freed_memory

    logs = [*(["tensorboard"] if tensorboard else []), *(log or [])]
    request = RunRequest(
        recipe=recipe,
        fields=recipe_fields(fields, settings or []),
        data_dir=data_dir,
        out=out,
        seed=seed,
        device=device,
        threads=threads,
        download=download,
        logs=tuple(dict.fromkeys(choice("--log", name, tuple(TRACKERS)) for name in logs)),
        graphs=choice("--graphs", graphs, ("on", "off")) == "on",
        deterministic=False if nondeterministic else None,
        test_share=test_share,
        tf32=tf32,
    )
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it; choose one of the two")
    keep_freed_memory()
    with grouped(usable_device(device)) as group:
        again = None if resume else after_restart(request)
        trainer = go_on(again or request) if again or resume else begin(request, overwrite=overwrite)
        try:
            result = trainer.fit()
        except Interrupted as stop:
            if group.is_main:
                typer.echo(str(stop), err=True)
            raise typer.Exit(128 + stop.signal) from stop
        if group.is_main:
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
