"""Which relaxed guarantee the options of ``certify`` and ``evaluate`` ask for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gloro_fast.errors import ConfigError, nearest

Chosen = int | list[list[int]]


def chosen_relaxation(top_k: int | None, affinity: Path | None, class_names: Sequence[str]) -> Chosen | None:
    """Return k, or the affinity sets that a file names as class indices; None where neither is asked for.

    Args:
        top_k: of --top-k.
        affinity: of --affinity, a JSON file of sets of class names or indices.
        class_names: of the data set.

    Raises:
        ConfigError: both are given, the file cannot be read, or it names what is no class.
    """
    if affinity is None:
        return top_k
    if top_k is not None:
        raise ConfigError("--top-k and --affinity are two guarantees; choose one")
    try:
        content = json.loads(affinity.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"--affinity {affinity} cannot be read ({error}); give a JSON file") from None
    if not (isinstance(content, list) and content and all(isinstance(names, list) and names for names in content)):
        raise ConfigError(
            f'--affinity {affinity} has no list of sets; write such as [["cat", "dog"], ["car", "truck"]]'
        )
    return [sorted({_index(name, affinity, class_names) for name in names}) for names in content]


def relaxation_text(chosen: Chosen, class_names: Sequence[str]) -> str:
    """Say which relaxed guarantee it is, in the words of tables and files."""
    if isinstance(chosen, int):
        return f"top-{chosen}"
    return "affinity " + ", ".join("+".join(class_names[index] for index in members) for members in chosen)


def _index(name: object, file: Path, class_names: Sequence[str]) -> int:
    if isinstance(name, str) and name in class_names:
        return class_names.index(name)
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(class_names):
        return name
    wanted = nearest(name, class_names) if isinstance(name, str) else f"; classes are 0 to {len(class_names) - 1}"
    raise ConfigError(f"--affinity {file} has the class {name!r:.60}{wanted}")
