"""Atomic file writing: a reader sees the old file or the whole new one, whatever happens in between."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends without an error.

    Args:
        path: the file to write or to replace; its folder must exist.

    Yields:
        The temporary path to write to. On an exception (a full disk, say) it is removed and ``path``
        stays as it was.
    """
    temporary = path.with_name(_temporary_name(path, os.getpid()))
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def growing(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that adds text to a file beside ``path``, which takes its place when the block ends.

    Until then the file is ``partial(path)``, made with the first text. Whatever ends the block early, a signal that
    kills the process included, it stays there with what was added: each text goes to the system in one write, and is
    taken back if that fails.

    Args:
        path: the file to write or to replace; its folder must exist.

    Yields:
        The function. If it is never called, nothing is written.
    """
    file: io.FileIO | None = None

    def add(text: str) -> None:
        nonlocal file
        if file is None:
            file = io.FileIO(partial(path), "w")
        before, data = file.tell(), text.encode()
        try:
            while data:
                data = data[file.write(data) :]
        except BaseException:
            file.truncate(before)
            file.seek(before)
            raise

    try:
        yield add
        if file is not None:
            os.fsync(file.fileno())
            os.replace(partial(path), path)
            _sync_folder(path.parent)
    finally:
        if file is not None:
            file.close()


def partial(path: Path) -> Path:
    """Return the file that :func:`growing` adds to."""
    return path.with_name(f"{path.name}.partial")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Let ``writer`` write a file (a picture, a tensor file) that then takes the place of ``path``."""
    with replacing(path) as temporary:
        writer(temporary)


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files of ``path`` that a process killed while it wrote has left behind."""
    return sorted(path.parent.glob(_temporary_name(Path(glob.escape(path.name)), "*")))


def _temporary_name(path: Path, process: int | str) -> str:
    return f".{path.name}.{process}.tmp"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
