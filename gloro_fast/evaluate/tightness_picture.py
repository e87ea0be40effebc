"""The picture of Figure 4c: upper bound, global and local lower bounds of a net's Lipschitz constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gloro_fast.evaluate.tightness import Tightness
from gloro_fast.files.atomic import write_with
from gloro_fast.recipes.paper import PaperTightness

_UPPER, _GLOBAL, _LOCAL, _GREY = "#1f5fa8", "#c8503c", "#d99a2b", "#555555"


def draw_tightness(
    found: Tightness, path: Path, *, paper: PaperTightness | None, title: str = "", note: str = ""
) -> None:
    """Write the bounds as bars, with the slope of every pair and ball as a dot, as a PNG, atomically.

    Args:
        found: the bounds.
        path: the picture; its folder must exist.
        paper: ratios to mark beside; None for none.
        title: what was measured.
        note: a remark on the data that belongs beside every result; printed below.
    """
    figure = Figure(figsize=(7.0, 3.2), layout="constrained")
    axes = figure.add_subplot()
    bars = [
        (f"upper bound\n{found.method}", found.upper, _UPPER, ()),
        (
            f"global lower bound\nmax of {len(found.global_slopes)} pairs",
            found.global_lower,
            _GLOBAL,
            found.global_slopes,
        ),
        (
            f"local lower bound\nmean of {len(found.local_slopes)} balls, $\\varepsilon$ = {found.epsilon:.4g}",
            found.local_lower,
            _LOCAL,
            found.local_slopes,
        ),
    ]
    for place, (_, value, color, slopes) in enumerate(bars):
        axes.barh(place, value, color=color, alpha=0.85, height=0.6)
        share = f"{value:.4g}" if place == 0 or not found.upper else f"{value:.4g}\n{value / found.upper:.1%} of upper"
        # Off the lines of the grid.
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        at = axes.get_yaxis_transform()
        axes.text(1.0, place, share, va="center", ha="right", fontsize=9.5, transform=at, bbox=behind)
        # Below the middle of the bar, so that its end stays in view.
        spread = [place + 0.1 + 0.18 * index / max(len(slopes) - 1, 1) for index in range(len(slopes))]
        dots = "steepest slope of one pair, or in one ball" if place == 1 else None
        axes.plot(slopes, spread, ".", color="black", alpha=0.45, markersize=3, label=dots)
    if paper is not None:
        line: dict[str, Any] = {"color": _GREY, "linewidth": 1.4, "linestyle": (0, (2, 1.5))}
        axes.plot([found.upper * paper.global_ratio] * 2, [0.62, 1.38], **line, label="the paper's ratios")
        low, high = paper.local_ratio
        for ratio in (low, high):
            axes.plot([found.upper * ratio] * 2, [1.62, 2.38], **line)
    # Above the plot, below the title.
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=9)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * max(found.upper, found.global_lower, 1e-9))
    axes.set_xlabel("Lipschitz constant of a margin $f_j - f_i$")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=26)
    if note:
        figure.supxlabel(note, fontsize=7.5, color=_GREY, wrap=True)
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=160))
