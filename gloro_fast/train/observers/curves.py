"""curves.png: loss, accuracies and Lipschitz constant over the epochs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from gloro_fast.files import atomic
from gloro_fast.files.tensor_file import saving
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.observers.base import Observer, RunStart
from gloro_fast.train.result import Result
from gloro_fast.train.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

# Drawing takes up to a second, as long as some epochs do.
_SECONDS_BETWEEN = 30.0


class Curves(Observer):
    """Draws the picture now and then, and when training stops."""

    def __init__(self) -> None:
        self._rows: list[EpochMetrics] = []
        self._folder: RunFolder | None = None
        self._drawn = 0
        self._last = time.monotonic()

    def on_start(self, run: RunStart) -> None:
        """Take over the rows there are."""
        self._rows, self._folder = list(run.rows), run.folder
        self._drawn, self._last = 0, time.monotonic()

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Draw if the last time was long ago."""
        self._rows.append(metrics)
        if time.monotonic() - self._last > _SECONDS_BETWEEN:
            self._draw()

    def on_end(self, result: Result) -> None:
        """Draw what is not yet in the picture."""
        self.close()

    def close(self) -> None:
        """Draw what is not yet in the picture."""
        if self._drawn < len(self._rows):
            self._draw()

    def _draw(self) -> None:
        assert self._folder is not None
        with saving(self._folder.curves):
            atomic.write_with(self._folder.curves, lambda temporary: draw(self._rows, temporary))
        self._drawn, self._last = len(self._rows), time.monotonic()


def draw(rows: list[EpochMetrics], path: Path) -> None:
    """Draw loss, clean accuracy, VRA and K over the epochs into a PNG file.

    Args:
        rows: one epoch each, at least one.
        path: where to; the name need not end in .png.
    """
    # The figure by itself: pyplot keeps global state and looks for a display. Imported late, since it is slow.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 6.5))
    # Fixed margins: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.08, top=0.95, wspace=0.16, hspace=0.16)
    loss, lipschitz, clean, vra = figure.subplots(2, 2, sharex=True).flat
    _plot(loss, "loss", {"training": lambda row: row.loss}, rows)
    _plot(
        lipschitz,
        "Lipschitz constant K (estimate)",
        {"training": lambda row: row.lipschitz, "validation": lambda row: row.validation_lipschitz},
        rows,
    )
    _plot(
        clean,
        "clean accuracy",
        {"training": lambda row: row.train_clean, "validation": lambda row: row.validation_clean},
        rows,
    )
    _plot(
        vra,
        "verified-robust accuracy (VRA), by the estimate",
        {"training": lambda row: row.train_vra, "validation": lambda row: row.validation_vra},
        rows,
    )
    for axes in (clean, vra):
        axes.set_ylim(0, 1)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, format="png", dpi=120)


def _plot(
    axes: Axes, title: str, lines: dict[str, Callable[[EpochMetrics], float | None]], rows: list[EpochMetrics]
) -> None:
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    for name, value in lines.items():
        points = [(row.epoch, y) for row in rows if (y := value(row)) is not None]
        if points:
            # A single epoch would make a line of no length.
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) == 1 else "")
    if len(axes.lines) > 1:
        axes.legend()
