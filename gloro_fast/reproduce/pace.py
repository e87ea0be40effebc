"""How long things take here and now: an epoch of a recipe, a step of the attacks and of the lower bounds, a sample."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from gloro_fast.data import DataSet
from gloro_fast.evaluate.attacked import attacked
from gloro_fast.evaluate.lower_bounds import global_lower_bounds
from gloro_fast.evaluate.smoothing import smooth
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.recipes import Recipe
from gloro_fast.train import EpochMetrics, Observer, RunStart, Step, Trainer

# Steps come first that compile, which may take a minute, plan, allocate and capture; the first epoch has them.
_WARM_UP, _EPOCHS = 3, 3
_ATTACK_STEPS, _PAIR_STEPS, _SAMPLES = 4, 5, 1_000


class _SeenEnoughError(Exception):
    """Training may stop: its pace is known."""


class _Pace(Observer):
    """Times steps and epochs, and stops after three epochs, or about ``seconds``.

    Steps on a GPU are not waited for, so that epochs tell there; of those it takes two, as the first has what compiles.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._batches = 1
        self._steps: list[float] = []
        self._epochs: list[float] = []

    def on_start(self, run: RunStart) -> None:
        """Begin to count."""
        self._batches = run.batches
        self._steps, self._epochs = [time.monotonic()], [time.monotonic()]

    def on_step(self, step: Step) -> None:
        """Stop in a long epoch."""
        self._steps.append(time.monotonic())
        if len(self._steps) > _WARM_UP + 1 and self._elapsed() > self._seconds:
            step.running()  # Waits for the device.
            self._steps[-1] = time.monotonic()
            raise _SeenEnoughError

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Stop after some."""
        self._epochs.append(time.monotonic())
        if len(self._epochs) > _EPOCHS or (len(self._epochs) > 2 and self._elapsed() > self._seconds):
            raise _SeenEnoughError

    def _elapsed(self) -> float:
        return time.monotonic() - self._steps[min(_WARM_UP, len(self._steps) - 1)]

    @property
    def seconds_per_epoch(self) -> float:
        """The median epoch, less the first where there are others; or that of as many steps, less the first three."""
        if len(self._epochs) > 1:
            took = [end - begin for begin, end in zip(self._epochs, self._epochs[1:], strict=False)]
            return statistics.median(took[1:] or took)
        warm = self._steps[_WARM_UP:]
        return (warm[-1] - warm[0]) / (len(warm) - 1) * self._batches


def seconds_per_epoch(recipe: Recipe, data: DataSet, device: str, seconds: float, seed: int = 0) -> float:
    """Train by a recipe for up to three epochs, as a run does, checkpoints and all, and return how long one takes.

    Args:
        recipe: its warm-up is left out.
        data: the data set.
        device: where.
        seconds: after which it may stop within an epoch, once four steps are done.
        seed: of the training, which is thrown away.
    """
    pace = _Pace(seconds)
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = Trainer(
            recipe.override(warmup_epochs=0), data, Path(nowhere) / "run", seed=seed, device=device, observers=[pace]
        )
        with contextlib.suppress(_SeenEnoughError):
            trainer.fit()
    return pace.seconds_per_epoch


def seconds_per_attack_step(net: GloRoNet, images: Tensor, labels: Tensor, epsilon: float) -> float:
    """Attack some images with a few steps, and return how long one step on one image takes, both attacks together.

    Args:
        net: the net, frozen.
        images: (B, *input_shape) float32: a batch.
        labels: (B,) int64.
        epsilon: l2 radius > 0.
    """
    attacked(net, images, labels, epsilon, steps=1, restarts=1)
    took = _seconds(lambda: attacked(net, images, labels, epsilon, steps=_ATTACK_STEPS, restarts=1))
    return took / (_ATTACK_STEPS * len(images))


def seconds_per_pair_step(net: GloRoNet, images: Tensor, pairs: int) -> float:
    """Look for a lower bound for a few steps, and return how long one step on all pairs takes.

    Args:
        net: the net, frozen.
        images: (N, *input_shape) float32.
        pairs: how many.
    """
    global_lower_bounds(net, images, pairs=pairs, steps=1)
    return _seconds(lambda: global_lower_bounds(net, images, pairs=pairs, steps=_PAIR_STEPS)) / _PAIR_STEPS


def seconds_per_sample(net: GloRoNet, image: Tensor, label: Tensor, noise: float) -> float:
    """Certify one image by sampling, and return how long a noisy copy takes.

    Args:
        net: the net.
        image: (1, *input_shape) float32.
        label: (1,) int64.
        noise: its deviation.
    """
    smooth(net, image, label, noise, samples=1)
    return _seconds(lambda: smooth(net, image, label, noise, samples=_SAMPLES)) / _SAMPLES


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
