"""A report says by what its figures came about."""

from __future__ import annotations

import pytest

from gloro_fast.reproduce.report import epochs_cell


@pytest.mark.parametrize(
    ("epochs", "warmup", "said"),
    [(200, 0, "200"), (200, 5, "200 + 5"), (20, 0, "20 of 200"), (300, 0, "300 (recipe: 200)")],
)
def test_epochs_are_told_beside_those_of_the_recipe(epochs: int, warmup: int, said: str) -> None:
    assert epochs_cell({"recipe": {"epochs": epochs, "warmup_epochs": warmup}, "recipe_epochs": 200}) == said
