"""A bar chart of all ratios of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.record import COST, OURS, RATE, Comparison, Record
from benchmarks.table import ratio_of
from gloro_fast.files import atomic

# Okabe and Ito's colours, told apart by everyone.
_OURS_SMALLER, _OURS_LARGER, _GOAL = "#0072B2", "#E69F00", "#000000"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


@dataclass(frozen=True)
class Bar:
    """Time or bytes of ours relative to the comparator's, whatever way round the table prints it."""

    heading: str
    label: str
    value: float
    lower: float
    upper: float
    goal: float | None


def bars(records: Sequence[Record]) -> list[Bar]:
    """Return one bar a ratio, in the order of the records; shares of a peak are no comparison and are left out."""
    found = []
    for record in records:
        if record.ours != OURS:
            continue
        for comparison in record.comparisons:
            if comparison.kind == RATE and comparison.goal is None:
                continue
            found.append(_bar(record, comparison))
    return found


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw the chart as a PNG, atomically."""
    chosen = bars(records)
    figure = Figure(figsize=(11, 1.6 + 0.24 * (len(chosen) + 1.6 * len({bar.heading for bar in chosen}))))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    place, places, labels = 0.0, [], []
    headings: list[tuple[float, str]] = []
    for index, bar in enumerate(chosen):
        if index == 0 or bar.heading != chosen[index - 1].heading:
            place += 1.6
            headings.append((place - 0.85, bar.heading))
        colour = _OURS_SMALLER if bar.value <= 1 else _OURS_LARGER
        errors = [[bar.value - bar.lower], [bar.upper - bar.value]]
        axes.barh(place, bar.value - 1, left=1, height=0.7, color=colour, xerr=None)
        axes.errorbar(bar.value, place, xerr=errors, color="#444444", capsize=2, linewidth=1)
        if bar.goal is not None:
            axes.plot([bar.goal] * 2, [place - 0.42, place + 0.42], color=_GOAL, linewidth=2)
        axes.text(1.01, place, f"{bar.value:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        places.append(place)
        labels.append(bar.label)
        place += 1
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = min([bar.lower for bar in chosen] + [0.5]), max([bar.upper for bar in chosen] + [1.5])
    axes.set_xlim(low / 1.15, high * 1.15)
    axes.set_xticks([tick for tick in _TICKS if low / 1.15 <= tick <= high * 1.15])
    axes.axvline(1, color="#444444", linewidth=0.8)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylim(place, -0.2)
    for height, heading in headings:
        axes.text(-0.01, height, heading, transform=axes.get_yaxis_transform(), ha="right", va="center", weight="bold")
    axes.set_xlabel("gloro_fast / comparator, time or bytes (left of 1: less); whiskers: 95 % interval; black: goal")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.tight_layout()
    atomic.write_with(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def _bar(record: Record, comparison: Comparison) -> Bar:
    ratio = ratio_of(record, comparison)
    label = f"{record.case} vs {comparison.against}"
    if comparison.kind == COST:
        return Bar(record.job, label, ratio.median, ratio.lower, ratio.upper, comparison.goal)
    goal = None if comparison.goal is None else 1 / comparison.goal
    return Bar(record.job, label, 1 / ratio.median, 1 / ratio.upper, 1 / ratio.lower, goal)
