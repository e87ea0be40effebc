"""What the paper reports (Leino et al. 2021): the rows of Figures 4 and D.1 and of Table C.1 that can be run here.

Figures in per cent, times on a GeForce RTX 3080. What is not legible in the copy at hand is left out, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """One row; None where the paper has no figure, or none that is legible.

    Attributes:
        figure: where it is printed.
        method: what the paper calls it.
        clean: clean accuracy, per cent.
        pgd: accuracy under PGD, per cent.
        vra: verified-robust accuracy, per cent.
        seconds_per_epoch: of training.
        epochs: of training.
        megabytes: peak memory in training, divided by the batch size.
    """

    figure: str
    method: str
    clean: float | None = None
    pgd: float | None = None
    vra: float | None = None
    seconds_per_epoch: float | None = None
    epochs: int | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class PaperTightness:
    """Figure 4c for GloRo nets on one data set, as the text of Section 5.3 gives it.

    Attributes:
        global_ratio: the largest lower bound over the upper bound.
        local_ratio: the range over the data sets of the mean local lower bound over the upper bound.
    """

    global_ratio: float
    local_ratio: tuple[float, float] = (0.06, 0.35)


@dataclass(frozen=True)
class PaperCertification:
    """Figure 4b: certifying the test set of CIFAR-10, 10,000 images, with 6C2F.

    Attributes:
        seconds: for all of them.
        megabytes: peak memory divided by the batch size.
    """

    seconds: float
    megabytes: float


TIGHTNESS = {"mnist": PaperTightness(0.83), "cifar10": PaperTightness(0.70), "tiny-imagenet": PaperTightness(0.47)}
"""By name of the data set."""

CERTIFICATION = PaperCertification(0.4, 1.8)
OTHERS_CERTIFICATION = {"KW": PaperCertification(2515.6, 1437.5), "BCP": PaperCertification(5.8, 19.1)}
"""By method; of randomized smoothing the paper says: over ten hours."""

_4A, _D1, _C1 = "Figure 4a", "Figure D.1", "Table C.1"

ROWS: dict[str, PaperRow] = {
    "mnist-2c2f": PaperRow(_4A, "GloRo (MinMax)", 99.0, 97.8, 95.7, 0.9, 500, 0.7),
    "mnist-2c2f-tuned": PaperRow(_4A, "GloRo (MinMax)", 99.0, 97.8, 95.7, 0.9, 500, 0.7),
    "mnist-2c2f-standard": PaperRow(_4A, "Standard", 99.2, 96.9, 0.0, 0.3, 100, 0.6),
    "mnist-2c2f-smoothing": PaperRow(_4A, "RS (stochastic)", 98.8, None, 97.4),
    "mnist-2c2f-relu-ce": PaperRow(_D1, "ReLU GloRo (CE)", 98.4, 96.9, 94.6, 0.7, 500, 0.7),
    "mnist-2c2f-relu-trades": PaperRow(_D1, "ReLU GloRo (TRADES)", 98.7, 97.4, 94.6, 0.7, 500, 0.7),
    "mnist-4c3f": PaperRow(_4A, "GloRo (MinMax)", 97.0, 81.9, 62.8, 3.7, 300, 2.7),
    "mnist-4c3f-standard": PaperRow(_4A, "Standard", 99.0, 45.4, 0.0, 0.9, 42, 2.2),
    "mnist-4c3f-smoothing": PaperRow(_4A, "RS (stochastic)", 99.0, None, 59.1),
    "mnist-4c3f-lmt": PaperRow(_C1, "LMT", 86.5, 53.6, 40.6),
    "mnist-4c3f-relu-ce": PaperRow(_D1, "ReLU GloRo (CE)", 92.9, 68.9, 50.1, 2.3, 300),
    "mnist-4c3f-relu-trades": PaperRow(_D1, "ReLU GloRo (TRADES)", 92.8, 67.0, 51.9, 2.0, 300),
    "cifar10-6c2f": PaperRow(_4A, "GloRo (MinMax)", 77.0, 69.2, 58.4, epochs=800),
    "cifar10-6c2f-standard": PaperRow(_4A, "Standard", vra=0.0),
    "cifar10-6c2f-lmt": PaperRow(_C1, "LMT", 63.1, 58.3, 38.1),
    "cifar10-6c2f-smoothing-0.5": PaperRow(_C1, "RS (stochastic)", 67.0, None, 49.0),
    "cifar10-6c2f-smoothadv-0.5": PaperRow(_C1, "SmoothADV (stochastic)", vra=63.0),
    "cifar10-6c2f-macer-0.5": PaperRow(_C1, "MACER (stochastic)", 81.0, None, 59.0),
    "tiny-imagenet-8c2f": PaperRow(_4A, "GloRo (MinMax)", vra=22.4, epochs=800),
}
"""By name of the recipe, with the radius behind it where that is another than the recipe's."""


@dataclass(frozen=True)
class OtherRow:
    """A row that no recipe makes.

    Attributes:
        data: name of the data set, and the radius.
        row: the paper's figures.
        why: there is no recipe.
    """

    data: str
    row: PaperRow
    why: str


_KW = "its authors' package (convex_adversarial) certifies nets here, but to train with its bound is not built in"
_NONE = "no package of it was found that runs with today's torch"
_ORTHOGONAL = "its layers are in gloro_fast.nn, but the figure is of another architecture, in a paper of its own"

OTHER_ROWS = (
    OtherRow("MNIST, 0.3", PaperRow(_4A, "KW", 98.9, 97.8, 94.0, 66.9, 100, 20.2), _KW),
    OtherRow("MNIST, 0.3", PaperRow(_4A, "BCP", 93.4, 89.5, 84.7, 44.8, 300, 12.6), _NONE),
    OtherRow("MNIST, 0.3", PaperRow(_C1, "MMR", 98.2, 96.2, 93.6), _NONE),
    OtherRow("MNIST, 1.58", PaperRow(_4A, "KW", 88.1, 67.9, 44.5, 138.1, 60, 84.0), _KW),
    OtherRow("MNIST, 1.58", PaperRow(_4A, "BCP", 92.4, 65.8, 47.9, 43.4, 60, 12.6), _NONE),
    OtherRow("MNIST, 1.58", PaperRow(_C1, "BCOP", 98.8, None, 56.7), _ORTHOGONAL),
    OtherRow("CIFAR-10, 36/255", PaperRow(_4A, "KW", 60.1, 56.2, 50.9), _KW),
    OtherRow("CIFAR-10, 36/255", PaperRow(_4A, "BCP", 65.7, 60.8, 51.3), _NONE),
    OtherRow("CIFAR-10, 36/255", PaperRow(_C1, "Cayley", 75.3, 67.6, 59.1), _ORTHOGONAL),
    OtherRow("CIFAR-10, 36/255", PaperRow(_C1, "BCOP", 72.4, 64.4, 58.7), _ORTHOGONAL),
    OtherRow("Tiny-ImageNet, 36/255", PaperRow(_4A, "BCP", 28.8, 26.6, 20.1), _NONE),
)
"""What stays the paper's figure."""
