"""The hooks through which a run tells others how it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from gloro_fast.data import Source, Split
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.train.config import RunConfig
from gloro_fast.train.epochs import EpochMetrics, EpochSettings
from gloro_fast.train.result import Result
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.running import Running, RunningSums


@dataclass(frozen=True)
class RunStart:
    """What is known when training begins or goes on.

    Attributes:
        config: the configuration.
        folder: the run folder, which exists.
        rows: metrics of the epochs that are over.
        epochs: epochs in all, warm-up counted.
        batches: steps an epoch.
        steps_done: steps of the whole run that are over.
        net: the net being trained.
        watched: images to see how it does on between epochs: the validation split, or without one the first thousand of
            the training split; never the test split.
    """

    config: RunConfig
    folder: RunFolder
    rows: tuple[EpochMetrics, ...]
    epochs: int
    batches: int
    steps_done: int
    net: GloRoNet
    watched: Split | Source


@dataclass(frozen=True)
class Step:
    """A step that is over.

    Attributes:
        epoch: number of the epoch, from 1.
        batch: number of the step in it, from 1.
        settings: epsilon, lambda and learning rate.
        sums: of the epoch so far, on the device.
    """

    epoch: int
    batch: int
    settings: EpochSettings
    sums: RunningSums

    def running(self) -> Running:
        """Return the means of the epoch so far. It waits for the device: call it a few times a second at most."""
        return self.sums.read()


class Observer:
    """Hears of a run; derive from it and override what is of interest."""

    def on_start(self, run: RunStart) -> None:
        """Training begins, or goes on after an interruption."""

    def on_step(self, step: Step) -> None:
        """A step is over."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is over and saved."""

    def on_end(self, result: Result) -> None:
        """Training has ended; result.json is written after this."""

    def close(self) -> None:
        """Training has ended, or stopped for whatever reason."""


@contextmanager
def closing(observers: Sequence[Observer]) -> Iterator[None]:
    """Close all observers at the end of the block; what went wrong in it is not hidden by what closing brings."""
    try:
        yield
    except BaseException:
        for observer in observers:
            with suppress(Exception):
                observer.close()
        raise
    with ExitStack() as stack:
        for observer in observers:
            stack.callback(observer.close)
