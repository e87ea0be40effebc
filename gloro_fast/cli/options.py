"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gloro_fast.errors import ConfigError, nearest
from gloro_fast.recipes.schedules import read_number

_Command = TypeVar("_Command", bound=Callable[..., None])
RADIUS = "RADIUS"
"""What help calls a number that ``radius`` reads."""


def radius(text: str) -> float:
    """Read a number or a quotient such as 36/255: the options of l2 radii; their commands refuse what is no radius.

    Raises:
        typer.BadParameter: it is neither.
    """
    try:
        return read_number(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number; write one such as 0.3 or 36/255") from None


RunArgument = Annotated[Path, typer.Argument(help="The run folder of a finished training.", metavar="RUN")]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Data set by name, or path of a .npz file or image folder; the run's own by default.",
        metavar="NAME|PATH",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where the data set's files are.", metavar="DIR", show_default=False),
]
SplitOption = Annotated[str, typer.Option("--split", help="Which part of the data: test or train.")]
EpsilonOption = Annotated[
    float | None,
    typer.Option(
        "--epsilon",
        help="l2 radius to certify, such as 0.3 or 36/255; the run's own by default.",
        parser=radius,
        metavar=RADIUS,
        show_default=False,
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="How to bound the Lipschitz constant (gloro-fast info lists the methods); auto by default. tight takes "
        "longer; power is the paper's estimate.",
        show_default=False,
    ),
]
ExecutedOption = Annotated[
    bool,
    typer.Option("--executed", help="Cover the rounding of the net's own float32 forward pass as well."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of all random choices.", min=0)]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", help="Images at a time.", min=1)]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="As torch names it; a GPU where there is one by default.", show_default=False),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads; all cores by default.", min=1, show_default=False)
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch the data into --data-dir if they are not there.")
]

# Which net and which images: what ``gloro_fast.cli.opened.open_run`` takes, annotation and default by name.
OPENING: dict[str, tuple[Any, object]] = {
    "data": (DataOption, None),
    "data_dir": (DataDirOption, None),
    "split": (SplitOption, "test"),
    "method": (MethodOption, None),
    "device": (DeviceOption, None),
    "threads": (ThreadsOption, None),
}

# Which relaxed guarantee: what ``gloro_fast.cli.relaxing.chosen_relaxation`` reads, likewise.
RELAXING: dict[str, tuple[Any, object]] = {
    "top_k": (
        Annotated[
            int | None,
            typer.Option(
                "--top-k",
                help="Certify relaxed top-k robustness: the likeliest classes, up to so many, as a set.",
                min=1,
                show_default=False,
            ),
        ],
        None,
    ),
    "affinity": (
        Annotated[
            Path | None,
            typer.Option(
                "--affinity",
                help='Certify affinity robustness: a JSON file of sets of class names or numbers, such as [["cat", '
                '"dog"]], within which classes may change places.',
                metavar="FILE",
                show_default=False,
            ),
        ],
        None,
    ),
}


def asks_relaxed(options: Mapping[str, Any]) -> bool:
    """Return whether one of ``RELAXING`` is given."""
    return any(options[name] is not None for name in RELAXING)


def with_options(options: Mapping[str, tuple[Any, object]]) -> Callable[[_Command], _Command]:
    """Return a command these options, annotation and default by name, in place of its ``**keywords``."""

    def give(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = [own for own in signature.parameters.values() if own.kind is not own.VAR_KEYWORD]
        for name, (kind, default) in options.items():
            keyword = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            parameters.append(keyword)
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return give


def positive_epsilon(value: float) -> float:
    """Refuse an l2 radius at which there is nothing to certify.

    Raises:
        ConfigError: not a finite number > 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"epsilon is {value:g}; the l2 radius must be a number greater than 0")
    return value


def choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Refuse what is not one of ``choices``.

    Raises:
        ConfigError: suggests the nearest.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}{nearest(value, choices)}")
    return value


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads of torch, if one was given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def usable_device(device: str | None) -> str:
    """Return the device asked for, or the GPU where there is one, else the CPU."""
    if device is not None:
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
