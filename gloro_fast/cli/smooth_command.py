"""``gloro-fast smooth``: predictions and certificates by randomized smoothing, a stochastic method to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.grouped import shared
from gloro_fast.cli.options import (
    OPENING,
    BatchSizeOption,
    EpsilonOption,
    RunArgument,
    SeedOption,
    positive_epsilon,
    with_options,
)
from gloro_fast.cli.reporting import console, facts, percent
from gloro_fast.errors import ConfigError
from gloro_fast.files.atomic import write_text


@shared
@with_options({name: option for name, option in OPENING.items() if name != "method"})
def smooth(
    run: RunArgument,
    epsilon: EpsilonOption = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Deviation of the noise; that of the run's training by default.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option(help="Certify the first so many.", min=1)] = 500,
    samples: Annotated[int, typer.Option(help="Noisy copies an image.", min=1)] = 10_000,
    alpha: Annotated[float, typer.Option(help="Probability of error of each certificate.")] = 0.001,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(help="A .json file; RUN/smoothing.json by default.", show_default=False)
    ] = None,
    batch_size: BatchSizeOption = 1000,
    **opening: Any,
) -> None:
    """Certify by randomized smoothing: exact binomial intervals over noisy copies, wrong with probability alpha."""
    from gloro_fast.cli.opened import open_run
    from gloro_fast.data import to_float
    from gloro_fast.distributed import current
    from gloro_fast.evaluate.smoothing import smooth as certify

    path = run.expanduser() / "smoothing.json" if out is None else output_path(out, ".json")
    if epsilon is not None:
        positive_epsilon(epsilon)
    opened, group = open_run(run, **opening), current()
    noise = opened.config.recipe.noise if noise is None else noise
    if noise == 0:
        raise ConfigError(f"run {run} was trained without noise; give the deviation with --noise")
    found = certify(
        opened.net,
        to_float(opened.split.images[:images]),
        opened.split.labels[:images],
        noise,
        samples=samples,
        alpha=alpha,
        batch_size=batch_size,
        seed=seed,
        group=group,
    )
    if not group.is_main:
        return
    radius = opened.epsilon if epsilon is None else epsilon
    numbers = {
        **opened.to_dict(),
        "epsilon": radius,
        "images": len(found.labels),
        "noise": noise,
        "samples": samples,
        "alpha": alpha,
        "clean_accuracy": found.clean_accuracy,
        "abstained": found.abstained,
        "vra": found.vra(radius),
        "seconds_per_image": found.seconds_per_image,
        "seed": seed,
    }
    with writing(path):
        write_text(path, to_json(numbers))
    rows = [
        *opened.facts(len(found.labels)),
        ("noise", f"deviation {noise:g}, {samples:,} copies an image"),
        ("accuracy", f"{percent(found.clean_accuracy)}, abstained {percent(found.abstained)}"),
        (f"VRA at epsilon {radius:.6g}", f"{percent(found.vra(radius))}, each wrong with probability {alpha:g}"),
        ("seconds an image", f"{found.seconds_per_image:.3g}"),
        ("written to", str(path)),
    ]
    console().print(facts(rows, "randomized smoothing"))
