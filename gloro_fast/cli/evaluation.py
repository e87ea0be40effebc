"""What certify and evaluate begin with: load a run's net and a data split, and certify every image of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gloro_fast.cli.options import choice, usable_device, use_threads
from gloro_fast.cli.reporting import percent

if TYPE_CHECKING:
    from gloro_fast.data import DataSet, Split
    from gloro_fast.evaluate import Evaluation
    from gloro_fast.model import GloRoNet
    from gloro_fast.train.config import RunConfig


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
) -> EvaluatedRun:
    """Certify every image of a split with a run's net.

    Args:
        run: the run folder.
        data: name or path of the data set; None for the run's own.
        data_dir: its place; None for where the run found it, if it is the run's own.
        split: "test" or "train".
        method: of finding the Lipschitz constant; None for the package's default.
        executed: cover the rounding of the net's own forward pass.
        batch_size: images at a time.
        device: as torch names it, None for the best there is.
        threads: CPU threads; None leaves them.

    Raises:
        GloroFastError: whatever does not fit, in one line.
    """
    from gloro_fast.bounds import DEFAULT_METHOD, check_method
    from gloro_fast.evaluate import evaluate
    from gloro_fast.run_folder import load_net

    choice("--split", split, ("test", "train"))
    method = DEFAULT_METHOD if method is None else method
    check_method(method)
    use_threads(threads)
    net, config = load_net(run, usable_device(device))
    data_set = load_run_data(config, data, data_dir)
    net.freeze(method)
    images = data_set.test if split == "test" else data_set.train
    evaluation = evaluate(net, images, batch_size, executed)
    recipe = config.recipe
    return EvaluatedRun(recipe.name, recipe.epsilon, data_set.name, data_set.note, split, evaluation, net, images)


def load_run_data(config: RunConfig, data: str | None, data_dir: Path | None) -> DataSet:
    """Load a data set for the net of a run.

    Args:
        config: of the run.
        data: name or path of the data set; None for the run's own.
        data_dir: its place; None for where the run found it, if it is the run's own.

    Raises:
        GloroFastError: it cannot be loaded.
    """
    from gloro_fast.data import load

    if data is None or data == config.recipe.data:
        data, data_dir = config.recipe.data, data_dir or (Path(config.data_dir) if config.data_dir else None)
    return load(data, data_dir)
