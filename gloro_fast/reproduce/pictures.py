"""The pictures of a report: curves over the epochs, histogram of certified radii, certified and rejected images."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from gloro_fast.data import DataSet, to_float
from gloro_fast.evaluate import Evaluation
from gloro_fast.files.atomic import write_with

_BLUE, _RED, _GREY = "#1f5fa8", "#c8503c", "#555555"
_EXAMPLES = 8

# Title, then the columns of metrics.csv with their labels.
_PANELS = (
    ("loss", {"loss": "training"}),
    ("clean accuracy", {"train_clean": "training", "validation_clean": "validation"}),
    ("VRA, by the estimate", {"train_vra": "training", "validation_vra": "validation"}),
    ("Lipschitz constant K (estimate)", {"lipschitz": "training", "validation_lipschitz": "validation"}),
    ("K: rigorous bound over power iteration", {"bound_gap": "end of epoch"}),
)


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw what metrics.csv says of every epoch, as far as it does, as a PNG.

    Args:
        metrics: metrics.csv of a run.
        path: the picture.
    """
    with open(metrics, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for title, columns in _PANELS:
        known = {
            label: points
            for column, label in columns.items()
            if (points := [(int(row["epoch"]), float(row[column])) for row in rows if row.get(column)])
        }
        if known:
            lines.append((title, known))
    figure = Figure(figsize=(3.9 * min(3, len(lines)), 2.9 * -(-len(lines) // 3)), layout="constrained")
    grid = figure.subplots(-(-len(lines) // 3), min(3, len(lines)), squeeze=False)
    for axes in grid.flat[len(lines) :]:
        axes.set_axis_off()
    for axes, (title, known) in zip(grid.flat, lines, strict=False):
        for label, points in known.items():
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) == 1 else "")
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.3)
        if len(known) > 1:
            axes.legend()
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def draw_histogram(evaluation: Evaluation, epsilon: float, path: Path) -> None:
    """Draw how many images have which certified radius, those predicted wrongly apart, as a PNG.

    Args:
        evaluation: of the test split.
        epsilon: l2 radius to mark.
        path: the picture.
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
    axes.legend(frameon=False, fontsize=9)
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def draw_examples(evaluation: Evaluation, data: DataSet, epsilon: float, path: Path) -> None:
    """Show test images that are certified and that are rejected, each with label, prediction and radius, as a PNG.

    Args:
        evaluation: of the test split.
        data: the data set.
        epsilon: l2 radius that decides.
        path: the picture.
    """
    certified = evaluation.radius > epsilon
    figure = Figure(figsize=(1.35 * _EXAMPLES, 4.4), layout="constrained")
    grid = figure.subplots(2, _EXAMPLES, squeeze=False)
    for line, (name, chosen) in enumerate((("certified", certified), ("rejected", ~certified))):
        places = chosen.nonzero().flatten()[:_EXAMPLES].tolist()
        for column, axes in enumerate(grid[line]):
            axes.set_axis_off()
            if column < len(places):
                place = places[column]
                label, prediction = int(evaluation.labels[place]), int(evaluation.prediction[place])
                _show(axes, to_float(data.test.images[place : place + 1])[0])
                said = data.class_names[prediction]
                wrong = "" if label == prediction else f"\nnot {data.class_names[label]}"
                axes.set_title(
                    f"{name}\n{said}{wrong}\nradius {float(evaluation.radius[place]):.3g}",
                    fontsize=8,
                    color=_RED if wrong else "black",
                )
    write_with(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _show(axes: object, image: Tensor) -> None:
    pixels = image.permute(1, 2, 0).clamp(0, 1)
    grey = pixels.shape[2] == 1
    axes.imshow((pixels[..., 0] if grey else pixels).numpy(), cmap="gray" if grey else None, vmin=0, vmax=1)  # type: ignore[attr-defined]
