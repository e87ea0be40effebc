"""``gloro-fast import-keras``: make a run folder of weights trained with Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gloro_fast.cli.options import RADIUS, radius
from gloro_fast.cli.reporting import console, facts
from gloro_fast.errors import ConfigError


def import_keras(
    file: Annotated[Path, typer.Argument(help="A .h5 file of Keras, or a .gloronet archive.", metavar="FILE")],
    recipe: Annotated[
        str,
        typer.Option(help="The recipe that the net was trained by: its data set, net and epsilon.", metavar="NAME"),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.", metavar="RUN")],
    architecture: Annotated[
        str | None, typer.Option(help="2C2F, 4C3F, 6C2F, 8C2F or 8C2F-print; the recipe's by default.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="minmax or relu; as the file says by default, or else the recipe.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="The certified l2 radius, such as 36/255; as the file says by default, or else the recipe.",
            parser=radius,
            metavar=RADIUS,
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(help="Of one image, such as 3,32,32; as the file says by default.", metavar="C,H,W"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of a run that is in --out.")] = False,
) -> None:
    """Make a run folder of weights trained with Keras, so that certify and evaluate take them.

    Layers, shapes and settings must be those of the architecture. Nothing is trained or certified here.
    """
    from gloro_fast.models.keras_weights import load_keras
    from gloro_fast.recipes import get
    from gloro_fast.train.imported import write_imported
    from gloro_fast.train.run_folder import RunFolder

    base = get(recipe)
    folder = RunFolder(out)
    if not overwrite:
        folder.check_free()
    net = load_keras(
        file.expanduser(), architecture or base.architecture, activation=activation, input_shape=_shape(input_shape)
    )
    fields: dict[str, Any] = {"architecture": architecture or base.architecture, "activation": net.activation}
    certified = epsilon if epsilon is not None else net.epsilon
    if certified is not None:
        fields["epsilon"] = certified
    config = write_imported(folder, net, base.override(**fields), file)
    rows = [
        ("weights", str(file)),
        ("architecture", f"{config.recipe.architecture}, {config.recipe.activation}"),
        ("input shape", "{} x {} x {}".format(*config.input_shape)),
        ("classes", str(config.num_classes)),
        ("epsilon", f"{config.recipe.epsilon:.6g}"),
        ("run folder", str(folder.path)),
    ]
    console().print(facts(rows, "imported"))


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--input-shape is {text!r}; write channels,height,width such as 3,32,32") from None
    return channels, height, width
