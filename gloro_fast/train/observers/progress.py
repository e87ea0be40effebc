"""A progress bar with loss, clean accuracy, VRA, K and the seconds left; without a terminal, lines."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gloro_fast import progress
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.observers.base import Observer, RunStart, Step

_COMPILING = "the first step compiles kernels"
# Every reading waits for the training device.
_SECONDS_BETWEEN = 0.4


class ProgressBar(Observer):
    """Shows the run on a terminal; where there is none, it prints one line an epoch, and one every 30 seconds.

    Args:
        console: where to; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._lines: progress.Progress | None = None
        self._task = TaskID(0)
        self._run: RunStart | None = None
        self._numbers = ""
        self._last = 0.0

    def on_start(self, run: RunStart) -> None:
        """Begin at the step where the run stands."""
        self._run, self._numbers, self._last = run, "", 0.0
        compiling = _COMPILING if run.config.device.startswith("cuda") else ""
        if not self._console.is_terminal:
            if self._console.stderr:
                self._lines = progress.Progress("training").__enter__()
                self._lines(0, 1, compiling)
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
        )
        self._task = self._progress.add_task(
            "training", total=run.epochs * run.batches, completed=run.steps_done, numbers=compiling
        )
        self._progress.start()

    def on_step(self, step: Step) -> None:
        """Show the step, and now and then the numbers."""
        if self._run is None:
            return
        done = (step.epoch - 1) * self._run.batches + step.batch
        if self._lines is not None:
            self._lines(done - self._run.steps_done, self._run.epochs * self._run.batches - self._run.steps_done)
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN:
            self._last = now
            running = step.running()
            robust = step.settings.phase == "robust"
            self._numbers = _numbers(
                running.loss, running.clean, running.vra if robust else None, running.lipschitz if robust else None
            )
        self._progress.update(
            self._task,
            description=f"epoch {step.epoch}/{self._run.epochs}",
            completed=done,
            numbers=self._numbers,
        )

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Print a line, where there is no bar."""
        if self._progress is None and self._run is not None:
            numbers = _numbers(metrics.loss, metrics.train_clean, metrics.train_vra, metrics.lipschitz)
            self._console.print(
                f"epoch {metrics.epoch}/{self._run.epochs}  {numbers}  {metrics.seconds:.1f} s", highlight=False
            )

    def close(self) -> None:
        """Take the bar down, so that the terminal is usable again."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._lines is not None:
            self._lines.__exit__(None, None, None)
            self._lines = None


def _numbers(loss: float, clean: float, vra: float | None, lipschitz: float | None) -> str:
    parts = [f"loss {loss:.4f}", f"clean {clean:.2%}"]
    if vra is not None:
        parts.append(f"VRA {vra:.2%}")
    if lipschitz is not None:
        parts.append(f"K {lipschitz:.3g} (estimate)")
    return "  ".join(parts)
