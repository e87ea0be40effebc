"""The rows of the paper's figures and tables, in the order in which they are run, each with its share of the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gloro_fast.recipes import get
from gloro_fast.recipes.paper import ROWS, PaperRow


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        label: what its report is called, a name in ``recipes.paper.ROWS`` where the paper has figures for it.
        recipe: name of the recipe.
        weight: how much of the time it gets, beside the others.
        fields: of the recipe that are other than it has them.
    """

    label: str
    recipe: str
    weight: float
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def data(self) -> str:
        """Name of the data set."""
        return get(self.recipe).data

    @property
    def paper(self) -> PaperRow | None:
        """The paper's figures; None where it has none, or none that is legible."""
        return ROWS.get(self.label)


def _own(recipe: str, weight: float) -> Row:
    return Row(recipe, recipe, weight)


def _at_a_half(recipe: str, weight: float) -> Row:
    """Return the row of Table C.1's stochastic part, which has another radius than the rest of CIFAR-10."""
    return Row(f"{recipe}-0.5", recipe, weight, {"epsilon": 0.5})


# By weight: on an H100 all epochs of the first three take some 35, 50 and 250 seconds, those of a ReLU row 70 to 100.
EVERY_ROW = (
    _own("mnist-2c2f", 12),
    _own("mnist-4c3f", 14),
    _own("cifar10-6c2f", 28),
    _own("tiny-imagenet-8c2f", 28),
    _own("mnist-2c2f-relu-ce", 5),
    _own("mnist-2c2f-relu-trades", 5),
    _own("mnist-4c3f-relu-ce", 4),
    _own("mnist-4c3f-relu-trades", 4),
    _own("cifar10-6c2f-relu-ce", 4),
    _own("cifar10-6c2f-relu-trades", 4),
    _own("tiny-imagenet-8c2f-relu-ce", 4),
    _own("tiny-imagenet-8c2f-relu-trades", 4),
    _own("mnist-2c2f-standard", 2),
    _own("mnist-4c3f-standard", 2),
    _own("cifar10-6c2f-standard", 2),
    _own("mnist-4c3f-lmt", 3),
    _own("cifar10-6c2f-lmt", 3),
    _own("mnist-2c2f-smoothing", 3),
    _own("mnist-4c3f-smoothing", 3),
    _at_a_half("cifar10-6c2f-smoothing", 3),
    _own("mnist-2c2f-smoothadv", 2),
    _own("mnist-4c3f-smoothadv", 2),
    _at_a_half("cifar10-6c2f-smoothadv", 2),
    _own("mnist-2c2f-macer", 2),
    _own("mnist-4c3f-macer", 2),
    _at_a_half("cifar10-6c2f-macer", 2),
)
"""What matters most comes first."""
