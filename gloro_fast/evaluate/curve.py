"""The picture of verified-robust accuracy against the radius: one look says what a net certifies, and how far."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from gloro_fast.evaluate.accuracy import Evaluation
from gloro_fast.files.atomic import write_with

_STEPS = 1000
_CURVE, _MARK, _GREY = "#1f5fa8", "#c8503c", "#555555"


def vra_steps(evaluation: Evaluation) -> tuple[Tensor, Tensor]:
    """Return the whole curve of VRA against the radius, a step at the certified radius of each correct image.

    Args:
        evaluation: of N images.

    Returns:
        Radii, float64, ascending from 0, without the infinite ones, and the VRA in [0, 1] at each, that is, of
        the images certified strictly beyond it; both of one length <= N + 1.
    """
    certified = evaluation.radius[evaluation.correct].sort().values
    radii = torch.cat([certified.new_zeros(1), certified[certified.isfinite()]])
    beyond = len(certified) - torch.searchsorted(certified, radii, right=True)
    return radii, beyond.double() / len(evaluation.labels)


def draw_vra(evaluation: Evaluation, path: Path, *, epsilon: float, title: str = "", note: str = "") -> None:
    """Write the curve of VRA against the radius as a PNG, atomically.

    Args:
        evaluation: the net's, on the split to show.
        path: the picture; its folder must exist.
        epsilon: l2 radius > 0 to mark.
        title: what was evaluated, such as the recipe and the data.
        note: a remark on the data that belongs beside every result; printed below.
    """
    figure = vra_figure(evaluation, epsilon)
    if title:
        figure.axes[0].set_title(title, loc="left", fontsize=11, fontweight="bold", pad=28)
    if note:
        figure.supxlabel(note, fontsize=7.5, color=_GREY, wrap=True)
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=160))


def vra_figure(evaluation: Evaluation, epsilon: float) -> Figure:
    """Return the curve of VRA against the radius, ``epsilon`` marked; see :func:`draw_vra`."""
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    _draw_curve(figure.add_subplot(), evaluation, epsilon)
    return figure


def _draw_curve(axes: Axes, evaluation: Evaluation, epsilon: float) -> None:
    radii, vra = vra_steps(evaluation)
    end = _right_end(radii, vra, epsilon)
    clean, at_epsilon = evaluation.clean_accuracy, evaluation.vra(epsilon)
    # No more steps than the picture has columns of pixels: as SVG ten thousand take a megabyte.
    drawn = [*range(0, len(radii) - 1, -(-len(radii) // _STEPS)), len(radii) - 1]
    radii, vra = radii[drawn], vra[drawn]
    # Beyond the last step the curve stays as it is: at 0, or at the share of infinite radii.
    x, y = [*radii.tolist(), max(end, float(radii[-1]))], [*vra.tolist(), float(vra[-1])]
    axes.axhline(
        clean, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), label=f"{evaluation.accuracy_name} {clean:.1%}"
    )
    axes.fill_between(x, y, step="post", color=_CURVE, alpha=0.12, linewidth=0)
    axes.step(x, y, where="post", color=_CURVE, linewidth=2, label=f"{evaluation.vra_name} by {evaluation.method}")
    axes.plot([epsilon, epsilon], [0, at_epsilon], color=_MARK, linewidth=1.2)
    axes.plot(
        epsilon,
        at_epsilon,
        "o",
        color=_MARK,
        markersize=6,
        clip_on=False,
        zorder=3,
        label=f"{'VRA ' if evaluation.relaxed is None else ''}{at_epsilon:.1%} at $\\varepsilon$ = {epsilon:.4g}",
    )
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    axes.set_xlabel("certified $\\ell_2$ radius (pixels in [0, 1])")
    correct = "correct" if evaluation.relaxed is None else "label in the set,"
    axes.set_ylabel(f"share of images, {correct} and certified")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the plot, where no curve can run through it.
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=9)


def _right_end(radii: Tensor, vra: Tensor, epsilon: float) -> float:
    """Return where the axis ends: past epsilon, and where all but a tail of the best 0.2 % of images is drawn."""
    drawn = radii[vra >= vra[-1] + 0.002]
    last = float(drawn[-1]) if len(drawn) else 0.0
    end = 1.05 * max(last, 1.5 * epsilon)
    return end if math.isfinite(end) else 1.5 * epsilon
