"""Ctrl-C and SIGTERM as a wish to stop after the running step, not as an end in the middle of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training stopped because a signal asked for it; everything is saved.

    Attributes:
        signal: which one; a command line exits with 128 plus its number.
        checkpoint: where the run was saved.
    """

    def __init__(self, received: signal.Signals, checkpoint: Path) -> None:
        super().__init__(f"{received.name} received: the run is saved in {checkpoint}; go on with --resume")
        self.signal = received
        self.checkpoint = checkpoint


@contextmanager
def interrupting(saved: Path) -> Iterator[None]:
    """Raise Interrupted in the block at SIGINT or SIGTERM, but where StopSignals waits for the end of a step.

    Args:
        saved: where what is done is kept, for the message.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number), saved)

    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopSignals:
    """While entered, remembers the first SIGINT or SIGTERM instead of acting on it.

    A SIGINT after that raises KeyboardInterrupt at once, unless ``patient``. Signals that the process ignores stay
    ignored, and outside the main thread, where Python allows no handlers, nothing is caught.

    Args:
        patient: whether to wait for the end of the step however often Ctrl-C comes: torchrun passes on to its processes
            what they have had from the terminal already, and kills them after 30 seconds.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(self, patient: bool = False) -> None:
        self._patient = patient
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None is a handler that was not set from Python, which could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        # SIGTERM may well come twice: timeout(1) sends it to the process and then to its group.
        self.received = self.received or signal.Signals(number)
