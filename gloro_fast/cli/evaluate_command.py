"""``gloro-fast evaluate``: clean accuracy, VRA at some radii, and the curve of VRA against the radius."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.grouped import shared
from gloro_fast.cli.options import (
    OPENING,
    RELAXING,
    BatchSizeOption,
    ExecutedOption,
    RunArgument,
    asks_relaxed,
    with_options,
)
from gloro_fast.cli.reporting import console, facts, percent, table
from gloro_fast.errors import ConfigError
from gloro_fast.files.atomic import write_text
from gloro_fast.recipes.schedules import read_number

if TYPE_CHECKING:
    from gloro_fast.cli.evaluated import EvaluatedRun


@shared
@with_options({**RELAXING, **OPENING})
def evaluate(
    run: RunArgument,
    radii: Annotated[
        str | None,
        typer.Option(
            help="l2 radii to give VRA at, such as 0.1,0.2 or 36/255,72/255; half, once and twice the run's epsilon by "
            "default.",
            show_default=False,
        ),
    ] = None,
    executed: ExecutedOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The picture, a .png file; RUN/vra.png or relaxed-vra.png by default. The numbers go beside it as "
            ".json.",
            show_default=False,
        ),
    ] = None,
    batch_size: BatchSizeOption = 512,
    **opening: Any,
) -> None:
    """Evaluate a net: clean accuracy, verified-robust accuracy (VRA) at some radii, and its curve as a picture.

    With --top-k or --affinity both are relaxed (Leino and Fredrikson 2021): the label is among the likeliest classes
    of a set that keeps together.
    """
    from gloro_fast.cli.evaluated import evaluate_run
    from gloro_fast.evaluate.curve import draw_vra

    name = "relaxed-vra.png" if asks_relaxed(opening) else "vra.png"
    picture = run.expanduser() / name if out is None else output_path(out, ".png")
    chosen = None if radii is None else _parse_radii(radii)
    evaluated = evaluate_run(
        run,
        executed=executed,
        batch_size=batch_size,
        **opening,
    )
    epsilon = evaluated.epsilon
    chosen = chosen or [epsilon / 2, epsilon, 2 * epsilon]
    numbers = picture.with_suffix(".json")
    with writing(picture):
        draw_vra(evaluated.evaluation, picture, epsilon=epsilon, title=evaluated.title, note=evaluated.data_note)
        write_text(numbers, _json(evaluated, chosen))
    _print_summary(evaluated, chosen, picture, numbers)


def _parse_radii(text: str) -> list[float]:
    """Read numbers > 0, separated by commas.

    Raises:
        ConfigError: names the one that is none.
    """
    radii = []
    for part in text.split(","):
        try:
            radius = read_number(part)
        except ValueError:
            radius = math.nan
        if not (math.isfinite(radius) and radius > 0):
            raise ConfigError(
                f"--radii has {part.strip()!r}; give numbers greater than 0, such as 0.1,0.2 or 36/255,72/255"
            )
        radii.append(radius)
    return radii


def _json(evaluated: EvaluatedRun, radii: list[float]) -> str:
    evaluation = evaluated.evaluation
    content = {
        **evaluated.to_dict(),
        "epsilon": evaluated.epsilon,
        **evaluated.vra_to_dict(evaluated.epsilon),
        "radius_quartiles": evaluation.radius_quartiles(),
        "radii": [{"radius": radius, **evaluated.vra_to_dict(radius)} for radius in radii],
    }
    return to_json(content)


def _print_summary(evaluated: EvaluatedRun, radii: list[float], picture: Path, numbers: Path) -> None:
    evaluation = evaluated.evaluation
    lower, median, upper = evaluation.radius_quartiles()
    rows = [
        *evaluated.facts(),
        (evaluation.accuracy_name, percent(evaluation.clean_accuracy)),
        ("certified radius", f"median {median:.4g}, quartiles {lower:.4g} to {upper:.4g} (0 where wrong)"),
    ]
    out = console()
    out.print(facts(rows, "evaluation"))
    columns = ("radius", evaluation.vra_name)
    vra = [(f"{radius:.6g}", evaluated.vra(radius)) for radius in radii]
    out.print(table(columns, vra, numbers=columns))
    out.print(f"curve: {picture}\nnumbers: {numbers}")
