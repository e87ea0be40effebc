"""What certify and evaluate begin with: load a run's net and a data split, and certify every image of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gloro_fast.cli.opened import OpenRun, open_run
from gloro_fast.cli.relaxing import Chosen, chosen_relaxation, relaxation_text
from gloro_fast.cli.reporting import percent
from gloro_fast.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from gloro_fast.evaluate import Evaluation
    from gloro_fast.evaluate.accuracy import AnyCertificate


Batches = Iterator["tuple[Tensor, AnyCertificate]"]
Passing = Callable[[OpenRun, Batches], Batches]


@dataclass(frozen=True)
class EvaluatedRun(OpenRun):
    """A run's net on a data split.

    Attributes:
        evaluation: prediction and radius of every image.
        relaxation: the relaxed guarantee that was certified instead of the ordinary one; None for that.
    """

    evaluation: Evaluation
    relaxation: Chosen | None

    @property
    def guarantee(self) -> str:
        """The words for the relaxed guarantee; empty for the ordinary one."""
        return "" if self.relaxation is None else relaxation_text(self.relaxation, self.class_names)

    @property
    def title(self) -> str:
        """What a picture says it shows."""
        return super().title + (f", {self.guarantee}" if self.guarantee else "")

    def facts(self, counted: int | None = None) -> list[tuple[str, str]]:
        """Return what every summary says of net and data."""
        return [
            *super().facts(counted),
            ("Lipschitz constant", f"{self.evaluation.lipschitz:.6g}, by {self.evaluation.method}"),
            ("guarantee", self.guarantee and f"relaxed, {self.guarantee}"),
            ("rounding of the forward pass", "covered" if self.evaluation.executed else "not covered (--executed)"),
        ]

    def vra(self, epsilon: float) -> str:
        """Write VRA at ``epsilon``, and beside that of executed certificates what it is without."""
        evaluation = self.evaluation
        real = f" ({percent(evaluation.real_vra(epsilon))} in real arithmetic)" if evaluation.executed else ""
        return f"{percent(evaluation.vra(epsilon))}{real}"

    def to_dict(self) -> dict[str, Any]:
        """Return the same for JSON; keys in one order."""
        relaxed = self.relaxation is not None
        return {
            **super().to_dict(),
            "images": len(self.evaluation.labels),
            "lipschitz": self.evaluation.lipschitz,
            "method": self.evaluation.method,
            "executed": self.evaluation.executed,
            **({"relaxation": self.relaxation} if relaxed else {}),
            "relaxed_accuracy" if relaxed else "clean_accuracy": self.evaluation.clean_accuracy,
        }

    def vra_to_dict(self, epsilon: float) -> dict[str, float]:
        """Return VRA at ``epsilon`` for JSON, and what it is in real arithmetic, by names that say if it is relaxed."""
        name = "vra" if self.relaxation is None else "relaxed_vra"
        return {name: self.evaluation.vra(epsilon), f"real_{name}": self.evaluation.real_vra(epsilon)}


def evaluate_run(
    run: Path,
    *,
    executed: bool,
    batch_size: int,
    top_k: int | None = None,
    affinity: Path | None = None,
    keep_logits: bool = False,
    passing: Passing | None = None,
    **opening: Any,
) -> EvaluatedRun:
    """Certify every image of a split with a run's net.

    Args:
        run: the run folder.
        executed: cover the rounding of the net's own forward pass.
        batch_size: images at a time.
        top_k: certify relaxed top-k robustness instead.
        affinity: a JSON file of sets of classes; certify affinity robustness instead.
        keep_logits: for a certificate file.
        passing: gets what was opened and the batches, labels beside certificates, and gives them on one by one.
        opening: as for :func:`gloro_fast.cli.opened.open_run`.

    Raises:
        Exit: this is not the first process of a group, and has done its part.
        GloroFastError: whatever does not fit, in one line.
    """
    from gloro_fast.distributed import current
    from gloro_fast.evaluate.accuracy import certified_batches, collect

    opened, group = open_run(run, **opening), current()
    relaxation = chosen_relaxation(top_k, affinity, opened.class_names)
    batches: Batches = certified_batches(opened.net, opened.split, batch_size, executed, group, relaxation)
    if not group.is_main:
        for _ in batches:
            pass
        raise typer.Exit()
    batches = tracked(batches, len(opened.split), "certifying", lambda batch: len(batch[0]))
    if passing is not None:
        batches = passing(opened, batches)
    return EvaluatedRun(**vars(opened), evaluation=collect(batches, keep_logits), relaxation=relaxation)
