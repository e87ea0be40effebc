"""What commands that try a net out begin with: load a run's net, bound it, and load a data split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gloro_fast.cli.options import choice, usable_device, use_threads

if TYPE_CHECKING:
    from gloro_fast.data import DataSet, Split
    from gloro_fast.net.gloro_net import GloRoNet
    from gloro_fast.train.config import RunConfig


@dataclass(frozen=True)
class OpenRun:
    """A run's net, its bound found, and a data split to try it on.

    Attributes:
        config: what decided the run.
        net: the net, frozen.
        data: name of the data set.
        data_note: what to print beside results made with it.
        class_names: of the data set's classes.
        split_name: "test" or "train".
        split: that split.
    """

    config: RunConfig
    net: GloRoNet
    data: str
    data_note: str
    class_names: tuple[str, ...]
    split_name: str
    split: Split

    @property
    def epsilon(self) -> float:
        """The certified l2 radius of the run."""
        return self.config.recipe.epsilon

    @property
    def title(self) -> str:
        """What a picture says it shows."""
        return f"{self.config.recipe.name}, {self.split_name} split of {self.data}"

    def facts(self, counted: int | None = None) -> list[tuple[str, str]]:
        """Return what every summary says of net and data.

        Args:
            counted: how many images, the first ones, it is about; None for all.
        """
        count = f"{len(self.split):,} images"
        if counted is not None and counted < len(self.split):
            count = f"the first {counted:,} of {count}"
        return [
            ("recipe", self.config.recipe.name),
            ("data", f"{self.data}, {self.split_name} split, {count}"),
            ("data note", self.data_note),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the same for JSON."""
        return {
            "recipe": self.config.recipe.name,
            "data": self.data,
            "data_note": self.data_note,
            "split": self.split_name,
        }


def open_run(
    run: Path,
    *,
    data: str | None,
    data_dir: Path | None,
    split: str,
    method: str | None = None,
    device: str | None,
    threads: int | None,
) -> OpenRun:
    """Load a run's net, bound it, and load a data split.

    Args:
        run: the run folder.
        data: name or path of the data set; None for the run's own.
        data_dir: its place; None for where the run found it, if it is the run's own.
        split: "test" or "train".
        method: of finding the Lipschitz constant; None for the package's default.
        device: as torch names it, None for the best there is.
        threads: CPU threads; None leaves them.

    Raises:
        GloroFastError: whatever does not fit, in one line.
    """
    from gloro_fast.bounds import DEFAULT_METHOD, check_method
    from gloro_fast.distributed import current
    from gloro_fast.train.trained_net import load_net

    with current().together():
        choice("--split", split, ("test", "train"))
        method = DEFAULT_METHOD if method is None else method
        check_method(method)
        use_threads(threads)
        net, config = load_net(run, usable_device(device))
        data_set = load_run_data(config, data, data_dir)
        net.freeze(method)
    part = data_set.test if split == "test" else data_set.train
    return OpenRun(config, net, data_set.name, data_set.note, data_set.class_names, split, part)


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
        return load(data, data_dir, test_share=config.test_share or None)
    return load(data, data_dir)
