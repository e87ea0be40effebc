"""Saying how far something is that takes its time: on a terminal in one line, elsewhere every 30 seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

_T = TypeVar("_T")
_PATIENCE = 2.0
_BETWEEN = 0.1
_ON_TERMINAL = 1.0
_WITHOUT_TERMINAL = 30.0

# All that are at work, the innermost last; when one of them last spoke, and how wide the terminal's line is.
_at_work: list[Progress] = []
_said = 0.0
_width = 0
_silent = False
_lock = threading.RLock()


class Progress:
    """Writes to the error stream how much of a piece of work is done and how long the rest takes, after two seconds.

    On a terminal it is one line, which is gone at the end; elsewhere a line every 30 seconds. Between calls only
    :func:`heartbeat` speaks, for whichever is innermost.

    Args:
        what: what is being done, as in "bounding the net".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._share, self._note = 0.0, ""

    def __enter__(self) -> Self:
        global _said
        self._begin = time.monotonic()
        # While Rich shows a bar it has put its own stream there, which makes a line of everything.
        self._terminal = sys.stderr.isatty() and not hasattr(sys.stderr, "rich_proxied_file")
        with _lock:
            if not _at_work:
                _said = self._begin
            _at_work.append(self)
        return self

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Note that ``done`` of ``total`` is done; ``note`` says more."""
        self._share, self._note = min(done / total, 1.0) if total else 0.0, note
        now = time.monotonic()
        if now - self._begin >= _PATIENCE and now - _said >= (_BETWEEN if self._terminal else _WITHOUT_TERMINAL):
            self._speak(now)

    def _speak(self, now: float) -> None:
        global _said, _width
        with _lock:
            _said = now
            if _silent:
                return
            text = self._text(now - self._begin)
            if self._terminal:
                sys.stderr.write("\r" + text.ljust(_width))
                _width = len(text)
            else:
                sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _text(self, seconds: float) -> str:
        parts = [f"{self._share:.0%} after {_spell(seconds)}" if self._share else f"{_spell(seconds)} so far"]
        if 0 < self._share < 1:
            parts.append(f"about {_spell(seconds * (1 - self._share) / self._share)} left")
        return f"{self._what}: {', '.join(parts)}{f' ({self._note})' if self._note else ''}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _width
        with _lock:
            _at_work.remove(self)
            if _width:
                sys.stderr.write("\r" + " " * _width + "\r")
                sys.stderr.flush()
                _width = 0


def silence() -> None:
    """Say nothing from now on: of several processes that do one thing together, one speaks."""
    global _silent
    _silent = True


def tracked(items: Iterable[_T], total: float, what: str, size: Callable[[_T], float] = lambda item: 1) -> Iterator[_T]:
    """Pass ``items`` on, and say how far that is.

    Args:
        items: any.
        total: sum of their sizes.
        what: as :class:`Progress` has it.
        size: of an item.
    """
    done = 0.0
    with Progress(what) as progress:
        for item in items:
            yield item
            done += size(item)
            progress(done, total)


@contextlib.contextmanager
def heartbeat(what: str) -> Iterator[None]:
    """Let whatever is at work within speak even if it notes nothing: every 30 seconds, on a terminal every second.

    Args:
        what: to say where nothing is, but not on a terminal.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(max(shortest, _said + between - time.monotonic())):
            with _lock:
                now, innermost = time.monotonic(), _at_work[-1]
                if not terminal:
                    due = now - _said >= _WITHOUT_TERMINAL
                else:
                    apart = _ON_TERMINAL if innermost._terminal else _WITHOUT_TERMINAL
                    due = innermost is not outermost and now - innermost._begin >= _PATIENCE and now - _said >= apart
                if due:
                    innermost._speak(now)

    with Progress(what) as outermost:
        terminal = outermost._terminal
        between, shortest = (_ON_TERMINAL, _ON_TERMINAL) if terminal else (_WITHOUT_TERMINAL, _BETWEEN)
        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _spell(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
