"""Saying how far a bound is that takes its time."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

_PATIENCE = 2.0
_WITHOUT_TERMINAL = 30.0


class Progress:
    """Writes to the error stream how many layers are bounded, once that has taken two seconds.

    On a terminal it is one line, which is gone at the end; elsewhere a line every 30 seconds.
    """

    def __enter__(self) -> Self:
        self._begin = self._said = time.monotonic()
        self._width = 0
        return self

    def __call__(self, done: int, total: int, name: str) -> None:
        """Note that ``done`` layers of ``total`` are bounded, the last of them ``name``."""
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - self._begin < _PATIENCE or now - self._said < (0.1 if terminal else _WITHOUT_TERMINAL):
            return
        self._said = now
        text = f"bounding the net: {done} of {total} layers after {now - self._begin:.0f} s, the last one {name}"
        if terminal:
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
