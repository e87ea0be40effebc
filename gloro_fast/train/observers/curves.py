"""curves.png: loss, accuracies, Lipschitz constant, lambda and epsilon over the epochs."""

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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_BLUE, _RED, _GREY = "#1f5fa8", "#c8503c", "#555555"
_SHARES = ("clean accuracy", "VRA")
_SCHEDULES = "what is trained with"
_GAP = "K: upper bound over the estimate"
# Title, then columns of metrics.csv with their labels.
_PANELS = (
    ("loss", {"loss": "training split"}),
    ("clean accuracy", {"train_clean": "training split", "validation_clean": "validation split"}),
    ("VRA, by the estimate", {"train_vra": "training split", "validation_vra": "validation split"}),
    (
        "Lipschitz constant K (estimate)",
        {"lipschitz": "last step of the epoch", "validation_lipschitz": "to convergence"},
    ),
    (_GAP, {"bound_gap": "end of the epoch"}),
    # Last, since its second scale is on the right.
    (_SCHEDULES, {"lam": "lambda", "epsilon": "epsilon"}),
)
_COLORS = dict.fromkeys(("validation split", "to convergence", "epsilon"), _RED)
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
    """Draw :func:`curves_figure` into a PNG file; the name of ``path`` need not end in .png."""
    curves_figure(rows).savefig(path, format="png", dpi=120)


def curves_figure(rows: list[EpochMetrics]) -> Figure:
    """Return what is known of the epochs: loss, accuracies and K, what is trained with, the gap of K.

    Args:
        rows: one epoch each, at least one.
    """
    # The figure by itself: pyplot keeps global state and looks for a display. Imported late, since it is slow.
    from matplotlib.figure import Figure

    panels = [(title, lines) for title, columns in _PANELS if (lines := _known(rows, columns))]
    in_a_row = 2 if len(panels) == 4 else 3
    count = -(-len(panels) // in_a_row)
    width, height = 4.1 * min(in_a_row, len(panels)), 3.0 * count + 0.3
    figure = Figure(figsize=(width, height))
    # Fixed margins, in inches: a layout engine would draw everything twice.
    left, right, bottom, top = 0.6 / width, 1 - 0.75 / width, 0.75 / height, 1 - 0.35 / height
    grid = figure.add_gridspec(count, 6, left=left, right=right, bottom=bottom, top=top, wspace=0.9, hspace=0.42)
    for place, (title, lines) in enumerate(panels):
        row, column = divmod(place, in_a_row)
        # The last row's panels share its width, so that no place is empty.
        share = 6 // min(in_a_row, len(panels) - row * in_a_row)
        axes = figure.add_subplot(grid[row, column * share : (column + 1) * share])
        axes.set_xlim(0, 1.03 * rows[-1].epoch)
        _plot(axes, title, lines)
    figure.text(left, 0.12 / height, _note(rows), fontsize=8, color=_GREY)
    return figure


def _known(rows: list[EpochMetrics], columns: dict[str, str]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each column that has any, by label."""
    lines = {
        label: [(row.epoch, value) for row in rows if (value := getattr(row, column)) is not None]
        for column, label in columns.items()
    }
    return {label: points for label, points in lines.items() if points}


def _plot(axes: Axes, title: str, lines: dict[str, list[tuple[int, float]]]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    drawn: list[Line2D] = []
    for label, points in lines.items():
        color = _COLORS.get(label, _BLUE)
        # Two quantities, lambda and epsilon, have a scale each.
        own = axes.twinx() if title == _SCHEDULES and drawn else axes
        own.spines["top"].set_visible(False)
        own.spines["right"].set_visible(own is not axes)
        # A single epoch would make a line of no length.
        marker = "." if len(points) == 1 or title == _GAP else ""
        drawn += own.plot(*zip(*points, strict=True), label=label, color=color, linewidth=1.8, marker=marker)
        if title == _SCHEDULES:
            own.set_ylabel(label, color=color, fontsize=9)
            own.set_ylim(0, 1.1 * max(value for _, value in points))
        else:
            own.ticklabel_format(axis="y", useOffset=False)
    if title.startswith(_SHARES):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if title != _SCHEDULES:
        axes.legend(frameon=False, fontsize=8)


def _note(rows: list[EpochMetrics]) -> str:
    """Say what the curves are of, and why a loss may rise or fall."""
    note = "Training split: the mean over the batches of an epoch, each with the weights of its step."
    first, last = (next((row for row in order if row.phase != "warmup"), None) for order in (rows, rows[::-1]))
    if first is not None and last is not None:
        grows = [
            name
            for name, before, after in (("lambda", first.lam, last.lam), ("epsilon", first.epsilon, last.epsilon))
            if before is not None and after is not None and after > before
        ]
        if grows:
            verb = "grow" if len(grows) > 1 else "grows"
            note += f" The loss is another one as {' and '.join(grows)} {verb}, and may rise or fall with it."
    return note
