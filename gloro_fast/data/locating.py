"""The first question of every reader: which folder holds the files, and what to say when none does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gloro_fast.errors import DataError


def required(data_dir: Path | None, name: str, expected: str) -> Path:
    """Return the folder (or file) the user named, or say that one is needed.

    Args:
        data_dir: what the user gave, if anything.
        name: the data set.
        expected: what to give, for the message: "the folder that holds ...".

    Raises:
        DataError: none was given, or it does not exist.
    """
    if data_dir is None:
        raise DataError(f"{name} needs --data-dir (data_dir=): {expected}")
    if not data_dir.exists():
        raise DataError(f"{data_dir} does not exist; {name} needs as --data-dir (data_dir=) {expected}")
    return data_dir


def first_holding(folders: Sequence[Path], wanted: str) -> Path | None:
    """Return the first of ``folders`` with a file or folder ``wanted`` (or ``wanted.gz``) in it, or None."""
    for folder in folders:
        if (folder / wanted).exists() or (folder / f"{wanted}.gz").exists():
            return folder
    return None
