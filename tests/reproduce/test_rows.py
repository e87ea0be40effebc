"""The rows of the paper: all of its figures that have a recipe, once, and the rest with a reason."""

from __future__ import annotations

from gloro_fast.recipes import get
from gloro_fast.recipes.paper import OTHER_ROWS, ROWS
from gloro_fast.reproduce.rows import EVERY_ROW


def test_every_row_of_the_paper_is_run_once_and_what_matters_most_first():
    labels = [row.label for row in EVERY_ROW]
    assert len(labels) == len(set(labels))
    # That one is a recipe of our own beside the paper's row.
    assert set(ROWS) - set(labels) == {"mnist-2c2f-tuned"}
    assert labels[:3] == ["mnist-2c2f", "mnist-4c3f", "cifar10-6c2f"]
    order = ["relu", "standard", "lmt", "smoothing", "smoothadv", "macer"]
    methods = [next((name for name in order if name in label), "") for label in labels]
    assert list(dict.fromkeys(methods)) == ["", *order]


def test_rows_have_the_paper_s_radius():
    for row in EVERY_ROW:
        recipe = get(row.recipe).override(**row.fields)
        assert recipe.epsilon == (0.5 if row.label.endswith("-0.5") else get(row.recipe).epsilon)
        assert row.paper is ROWS.get(row.label)


def test_what_is_not_run_is_none_of_the_rows_and_says_why():
    run = {(row.paper.figure, row.paper.clean, row.paper.vra) for row in EVERY_ROW if row.paper}
    for other in OTHER_ROWS:
        assert (other.row.figure, other.row.clean, other.row.vra) not in run
        assert other.why
