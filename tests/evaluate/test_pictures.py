"""Pictures say what they show: whose curves, which is the truth, what a dot is; nothing is empty or covered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from gloro_fast.data import DataSet, Split
from gloro_fast.evaluate import Evaluation
from gloro_fast.evaluate.tightness import Tightness
from gloro_fast.evaluate.tightness_picture import draw_tightness
from gloro_fast.recipes.paper import TIGHTNESS
from gloro_fast.reproduce.pictures import draw_examples, draw_histogram
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.observers.curves import draw

REPORT = Path(__file__).parents[2] / "reports" / "mnist-2c2f" / "report.json"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    save = Figure.savefig

    def saved(figure, *arguments, **options):
        figures.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def labels(axes):
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def epochs(count, *, lam=True, robust=True, validated=False, gap=False, epsilon=0.3):
    return [
        EpochMetrics(
            epoch=epoch,
            phase="robust" if robust else "standard",
            loss=1 + 0.1 * epoch,
            train_clean=0.9,
            train_vra=0.5 if robust else None,
            lipschitz=4.0 if robust else None,
            epsilon=epsilon if robust else None,
            lam=0.1 * epoch if robust and lam else None,
            learning_rate=1e-3,
            seconds=1.0,
            validation_clean=0.8 if validated else None,
            validation_vra=0.4 if validated and robust else None,
            validation_lipschitz=4.1 if validated and robust else None,
            bound_gap=1.01 if gap and epoch % 2 else None,
        )
        for epoch in range(1, count + 1)
    ]


@pytest.mark.parametrize("epsilon", [1.58, 0.3, 36 / 255, 0.05, 0.004])
def test_no_label_of_the_curves_is_cut_off(tmp_path, drawn, epsilon):
    draw(epochs(20, gap=True, epsilon=epsilon), tmp_path / "curves.png")
    (figure,) = drawn
    around, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 < around.x0 < around.x1 < width
    assert 0 < around.y0 < around.y1 < height


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        (epochs(5), 5),
        (epochs(5, validated=True, gap=True), 6),
        (epochs(5, lam=False), 5),
        (epochs(5, robust=False), 2),
        (epochs(5, robust=False, gap=True), 3),
        (epochs(1), 5),
    ],
)
def test_curves(tmp_path, drawn, rows, panels):
    draw(rows, tmp_path / "curves.png")
    (figure,) = drawn
    by_title = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    assert len(by_title) == panels
    assert all(axes.lines for axes in figure.axes)
    loss = by_title["loss"]
    assert labels(loss) == ["training split"]
    assert ("validation split" in labels(by_title["clean accuracy"])) == (rows[0].validation_clean is not None)
    # The panels of every row fill it.
    for row in {round(axes.get_position().y0, 3) for axes in figure.axes}:
        here = [axes.get_position() for axes in figure.axes if round(axes.get_position().y0, 3) == row]
        assert min(place.x0 for place in here) == pytest.approx(loss.get_position().x0)
        assert max(place.x1 for place in here) == pytest.approx(max(axes.get_position().x1 for axes in figure.axes))
    (note,) = (text.get_text() for text in figure.texts)
    assert note.startswith("Training split: ")
    assert ("as lambda grows" in note) == (rows[0].lam is not None and len(rows) > 1)
    scales = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    wanted = [name for name in ("lambda", "epsilon") if getattr(rows[0], {"lambda": "lam"}.get(name, name)) is not None]
    assert scales == wanted


@pytest.fixture
def evaluation():
    radius = torch.cat([torch.linspace(0, 0.2, 30), torch.linspace(0.25, 1.0, 70)]).double()
    truth = torch.arange(100) % 3
    prediction = torch.where(torch.arange(100) % 7 == 0, (truth + 1) % 3, truth)
    return Evaluation(truth, prediction, radius, 5.0, "auto", torch.zeros(100, 3), False, radius)


def test_the_legend_of_the_radii_covers_nothing(tmp_path, drawn, evaluation):
    draw_histogram(evaluation, 0.3, tmp_path / "radii.png")
    (figure,) = drawn
    (axes,) = figure.axes
    assert labels(axes)[-1] == "$\\varepsilon$ = 0.3"
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())


def test_examples_say_which_is_the_truth(tmp_path, drawn, evaluation):
    split = Split(torch.zeros(100, 1, 4, 4, dtype=torch.uint8), evaluation.labels)
    draw_examples(evaluation, DataSet("pets", split, split, ("cat", "dog", "eel")), 0.3, tmp_path / "examples.png")
    (figure,) = drawn
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 16
    assert titles[8] == "truth: cat\npredicted: dog\nradius 0"
    assert figure.axes[8].title.get_color() != "black"
    assert titles[9].startswith("truth: dog\npredicted: dog\n")
    assert figure.axes[9].title.get_color() == "black"
    assert [figure.axes[place].get_ylabel().split("\n")[0] for place in (0, 8)] == ["certified", "rejected"]
    # They are spread over all, in a folder of images over its classes.
    radii = [float(title.rsplit(" ", 1)[1]) for title in titles]
    assert radii[7] > 0.85
    assert radii[15] > 0.15


@pytest.mark.skipif(not REPORT.is_file(), reason="the checkout is not here")
@pytest.mark.parametrize("paper", [None, TIGHTNESS["mnist"]])
def test_the_dots_of_the_bounds_are_named(tmp_path, drawn, paper):
    found = Tightness.from_dict(json.loads(REPORT.read_text())["tightness"])
    draw_tightness(found, tmp_path / "tightness.png", paper=paper, title="mnist")
    (figure,) = drawn
    (axes,) = figure.axes
    assert labels(axes) == ["steepest slope of one pair, or in one ball", *(["the paper's ratios"] if paper else [])]
    assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())
