"""The pictures of a report: histogram of certified radii, certified and rejected images."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gloro_fast.data import DataSet, to_float
from gloro_fast.evaluate import Evaluation
from gloro_fast.files.atomic import write_with

_BLUE, _RED, _GREY = "#1f5fa8", "#c8503c", "#555555"
_EXAMPLES = 8


def draw_histogram(evaluation: Evaluation, epsilon: float, path: Path, *, title: str = "", note: str = "") -> None:
    """Draw :func:`histogram_figure` as a PNG.

    Args:
        evaluation: of the test split.
        epsilon: l2 radius to mark.
        path: the picture.
        title: what was evaluated.
        note: a remark on the data that belongs beside every result; printed below.
    """
    figure = histogram_figure(evaluation, epsilon)
    if title:
        figure.axes[0].set_title(title, loc="left", fontsize=11, fontweight="bold", pad=24)
    if note:
        figure.supxlabel(note, fontsize=7.5, color=_GREY, wrap=True)
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def histogram_figure(evaluation: Evaluation, epsilon: float) -> Figure:
    """Return how many images have which certified radius, those predicted wrongly apart.

    Args:
        evaluation: of the test split.
        epsilon: l2 radius to mark.
    """
    radius, correct = evaluation.radius, evaluation.correct
    finite = radius[radius.isfinite()]
    # All but a tail of one in a thousand; what lies beyond is counted in the last bin.
    end = max([1.2 * epsilon, *([float(finite.quantile(0.999))] if len(finite) else [])])
    bins = torch.linspace(0, end, 41).tolist()
    figure = Figure(figsize=(7.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    parts = [radius[correct].clamp_max(end).tolist(), radius[~correct].clamp_max(end).tolist()]
    names = [f"predicted correctly ({int(correct.sum()):,})", f"wrongly ({int((~correct).sum()):,})"]
    axes.hist(parts, bins=bins, stacked=True, color=[_BLUE, _RED], label=names)
    axes.axvline(epsilon, color="black", linewidth=1.2, linestyle=(0, (4, 3)), label=f"$\\varepsilon$ = {epsilon:.4g}")
    axes.set_xlabel(f"certified $\\ell_2$ radius, by {evaluation.method}")
    axes.set_ylabel("images")
    axes.set_xlim(0, end)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the plot, off the bars and the line.
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=9)
    return figure


def draw_examples(evaluation: Evaluation, data: DataSet, epsilon: float, path: Path) -> None:
    """Show test images that are certified and that are rejected, each with truth, prediction and radius, as a PNG.

    What is predicted wrongly is red.

    Args:
        evaluation: of the test split.
        data: the data set.
        epsilon: l2 radius that decides.
        path: the picture.
    """
    certified = evaluation.radius > epsilon
    figure = Figure(figsize=(1.35 * _EXAMPLES, 3.9), layout="constrained")
    grid = figure.subplots(2, _EXAMPLES, squeeze=False)
    for line, (name, chosen) in enumerate((("certified", certified), ("rejected", ~certified))):
        found = chosen.nonzero().flatten()
        count = min(len(found), _EXAMPLES)
        # Evenly spaced: a folder of images is in the order of its classes.
        places = found[torch.arange(count) * len(found) // max(count, 1)].tolist()
        for column, axes in enumerate(grid[line]):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(f"{name}\nat $\\varepsilon$ = {epsilon:.4g}", fontsize=9, fontweight="bold")
            if column < len(places):
                place = places[column]
                label, prediction = int(evaluation.labels[place]), int(evaluation.prediction[place])
                _show(axes, to_float(data.test.images[place : place + 1])[0])
                truth, said = data.class_names[label], data.class_names[prediction]
                axes.set_title(
                    f"truth: {truth}\npredicted: {said}\nradius {float(evaluation.radius[place]):.4g}",
                    fontsize=8,
                    color="black" if label == prediction else _RED,
                )
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _show(axes: object, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).clamp(0, 1)
    grey = pixels.shape[2] == 1
    axes.imshow((pixels[..., 0] if grey else pixels).numpy(), cmap="gray" if grey else None, vmin=0, vmax=1)  # type: ignore[attr-defined]
