"""What certify and evaluate begin with: load a run's net and a data split, and certify every image of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gloro_fast.cli.opened import open_run
from gloro_fast.cli.reporting import percent
from gloro_fast.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from gloro_fast.cli.opened import OpenRun
    from gloro_fast.data import Split
    from gloro_fast.evaluate import Evaluation
    from gloro_fast.net.certificate import Certificate
    from gloro_fast.net.gloro_net import GloRoNet


Batches = Iterator["tuple[Tensor, Certificate]"]
Passing = Callable[["OpenRun", Batches], Batches]


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's net on a data split.

    Attributes:
        recipe: name of the recipe it was trained with.
        epsilon: the certified l2 radius of the run.
        data: name of the data set.
        data_note: what to print beside results made with it.
        split: "test" or "train".
        evaluation: prediction and radius of every image.
        net: the net, frozen.
        images: what was evaluated.
    """

    recipe: str
    epsilon: float
    data: str
    data_note: str
    split: str
    evaluation: Evaluation
    net: GloRoNet
    images: Split

    def facts(self) -> list[tuple[str, str]]:
        """Give what every summary says of net and data."""
        count = len(self.evaluation.labels)
        return [
            ("recipe", self.recipe),
            ("data", f"{self.data}, {self.split} split, {count:,} images"),
            ("data note", self.data_note),
            ("Lipschitz constant", f"{self.evaluation.lipschitz:.6g}, by {self.evaluation.method}"),
            ("rounding of the forward pass", "covered" if self.evaluation.executed else "not covered (--executed)"),
        ]

    def vra(self, epsilon: float) -> str:
        """Write VRA at ``epsilon``, and beside that of executed certificates what it is without."""
        evaluation = self.evaluation
        real = f" ({percent(evaluation.real_vra(epsilon))} in real arithmetic)" if evaluation.executed else ""
        return f"{percent(evaluation.vra(epsilon))}{real}"

    def to_dict(self) -> dict[str, Any]:
        """Give the same for JSON; keys in one order."""
        return {
            "recipe": self.recipe,
            "data": self.data,
            "data_note": self.data_note,
            "split": self.split,
            "images": len(self.evaluation.labels),
            "lipschitz": self.evaluation.lipschitz,
            "method": self.evaluation.method,
            "executed": self.evaluation.executed,
            "clean_accuracy": self.evaluation.clean_accuracy,
        }


def evaluate_run(
    run: Path,
    *,
    data: str | None,
    data_dir: Path | None,
    split: str,
    method: str | None,
    executed: bool,
    batch_size: int,
    device: str | None,
    threads: int | None,
    keep_logits: bool = False,
    passing: Passing | None = None,
) -> EvaluatedRun:
    """Certify every image of a split with a run's net.

    Arguments are those of :func:`gloro_fast.cli.opened.open_run`; ``executed`` covers the rounding of the net's own
    forward pass, ``batch_size`` is the number of images at a time, and ``keep_logits`` is for a certificate file.
    ``passing`` gets what was opened and the batches, labels beside certificates, and gives them on one by one.

    Raises:
        GloroFastError: whatever does not fit, in one line.
    """
    from gloro_fast.evaluate.accuracy import certified_batches, collect

    opened = open_run(run, data=data, data_dir=data_dir, split=split, method=method, device=device, threads=threads)
    batches: Batches = certified_batches(opened.net, opened.split, batch_size, executed)
    batches = tracked(batches, len(opened.split), "certifying", lambda batch: len(batch[0]))
    if passing is not None:
        batches = passing(opened, batches)
    evaluation = collect(opened.split, batches, keep_logits)
    return EvaluatedRun(
        opened.config.recipe.name,
        opened.epsilon,
        opened.data,
        opened.data_note,
        opened.split_name,
        evaluation,
        opened.net,
        opened.split,
    )
