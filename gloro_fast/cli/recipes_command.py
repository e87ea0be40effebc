"""``gloro-fast recipes``: the configurations by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from gloro_fast.cli.reporting import console, facts, table

_COLUMNS = ("recipe", "data", "net", "activation", "loss", "lambda", "epochs", "epsilon")
_NUMBERS = ("epochs", "epsilon")


def recipes(
    name: Annotated[str | None, typer.Argument(help="Show every field of this one.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every field as JSON.")] = False,
) -> None:
    """List the recipes: the paper's configurations by name, each with the fields that train can change."""
    from gloro_fast.recipes import RECIPES, get

    chosen = list(RECIPES.values()) if name is None else [get(name)]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(recipe) for recipe in chosen], indent=2))
    elif name is not None:
        (recipe,) = chosen
        fields = [(field, f"{value}") for field, value in dataclasses.asdict(recipe).items()]
        console().print(facts(fields, f"recipe {recipe.name}"))
    else:
        rows = [
            (
                recipe.name,
                recipe.data,
                recipe.architecture,
                recipe.activation,
                recipe.loss,
                recipe.lam if recipe.has_lambda else "",
                f"{recipe.epochs}",
                f"{recipe.epsilon:.4g}",
            )
            for recipe in chosen
        ]
        console().print(table(_COLUMNS, rows, numbers=_NUMBERS))
