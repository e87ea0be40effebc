"""Fields of the recipe as given on the command line: by their own option, or by ``--set FIELD=VALUE``."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gloro_fast import data
from gloro_fast.errors import ConfigError, nearest
from gloro_fast.recipes import FIELDS, Recipe
from gloro_fast.recipes.schedules import read_number


def recipe_fields(options: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Collect the fields of the recipe that the user gave.

    Args:
        options: the command's options by name; those that are fields count, None is one that was not given.
        settings: texts FIELD=VALUE.

    Raises:
        ConfigError: a field is unknown (the nearest is suggested), given twice, or of another type.
    """
    given = {name: value for name, value in options.items() if name in FIELDS and value is not None}
    for text in settings:
        name, value = _parse(text)
        if name in given:
            raise ConfigError(f"{name} is given twice, as {given[name]} and as {value}; leave one out")
        given[name] = value
    if "data" in given:
        given["data"] = _lasting(given["data"])
    return given


def _parse(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise ConfigError(f"--set has {text!r}; write FIELD=VALUE, such as epochs=10")
    if name not in FIELDS:
        raise ConfigError(f"recipes have no field {name!r}{nearest(name, FIELDS)}")
    kind = typing.get_type_hints(Recipe)[name]
    try:
        return name, (read_number if kind is float else kind)(value.strip())
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigError(f"--set has {text!r}; {name} must be {wanted}") from None


def _lasting(name: str) -> str:
    """Make the path of a data set one that --resume finds from any folder; a name stays."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name not in data.NAMES and path.exists() else name
