"""Files that commands write: a path that cannot be is refused before the work, not after it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gloro_fast.errors import ConfigError


def output_path(path: Path, *suffixes: str, option: str = "--out") -> Path:
    """Return ``path`` if a file of that name can be written there.

    Args:
        path: the file; one that is there will be replaced.
        suffixes: what its name may end in, such as ".csv".
        option: what gave the path.

    Raises:
        ConfigError: another suffix, no such folder, or a folder itself.
    """
    path = path.expanduser()
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} is {path}; give it a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise ConfigError(f"{option} is {path}, a folder; give the name of a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} is {path}, but there is no folder {path.parent}; make it first")
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing ``path`` into one line.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); choose another --out") from error


def to_json(content: Any) -> str:
    """Return ``content`` as JSON text; an infinite number, for which JSON has no word, becomes the string "inf"."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    match content:
        case dict():
            return {key: _finite(value) for key, value in content.items()}
        case list() | tuple():
            return [_finite(item) for item in content]
        case float() if math.isinf(content):
            return str(content)
    return content
