"""What training and certification cost, the paper's way (Leino et al. 2021, Figures 4a and 4b, Appendix E)."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_fast.data import Batches, DataSet, Split
from gloro_fast.evaluate import evaluate
from gloro_fast.evaluate.peak_memory import peak_bytes
from gloro_fast.graph.plan import evaluation_mode
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.recipes import Recipe
from gloro_fast.train.trainer import Trainer

_WARM_UP = 2


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one kind of training; one megabyte is 10^6 bytes.

    Attributes:
        seconds_per_epoch: median time of a step, times the steps of an epoch.
        megabytes_per_instance: peak of live tensor bytes, weights and optimizer included, over the batch size.
    """

    seconds_per_epoch: float
    megabytes_per_instance: float


@dataclass(frozen=True)
class CertificationCost:
    """Cost of certifying a split; one megabyte is 10^6 bytes.

    Attributes:
        images: how many.
        seconds: for all of them, the bound being there.
        forward_seconds: for a plain forward pass over them, as much batched.
        bound_seconds: once for the net: finding its Lipschitz constant.
        megabytes_per_instance: peak of live tensor bytes, weights included, over the batch size.
    """

    images: int
    seconds: float
    forward_seconds: float
    bound_seconds: float
    megabytes_per_instance: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def training_cost(recipe: Recipe, data: DataSet, device: str = "cpu", rounds: int = 15) -> dict[str, TrainingCost]:
    """Measure training by ``recipe`` beside standard training of the same net with ReLU, in one run.

    The two take turns, step by step, so that whatever else the machine does meets both.

    Args:
        recipe: its warm-up is left out; batch size, augmentation, optimizer are the same for both.
        data: the data set.
        device: where.
        rounds: timed steps of each, after two that are not.

    Returns:
        By "recipe" and "standard".
    """
    plain = recipe.override(warmup_epochs=0)
    contenders = {"recipe": plain, "standard": plain.override(loss="standard", activation="relu")}
    with tempfile.TemporaryDirectory() as nowhere:
        trainers = {
            name: Trainer(contender, data, Path(nowhere) / name, device=device)
            for name, contender in contenders.items()
        }
        batches = Batches(data.train, recipe.batch_size, shuffle=False, device=device)
        images, labels = next(iter(batches))
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for turn, (name, trainer) in itertools.product(range(_WARM_UP + rounds), trainers.items()):
            trainer.net.train()
            spent = _timed(trainer, images, labels)
            if turn >= _WARM_UP:
                seconds[name].append(spent)
        return {
            name: TrainingCost(
                statistics.median(seconds[name]) * len(batches),
                _peak(trainer, images, labels) / len(labels) / 1e6,
            )
            for name, trainer in trainers.items()
        }


def certification_cost(net: GloRoNet, split: Split, batch_size: int = 512, rounds: int = 3) -> CertificationCost:
    """Measure the certification of a whole split beside a plain forward pass; the two take turns.

    Args:
        net: the net; what its bound costs is measured by finding it anew.
        split: what to certify.
        batch_size: images at a time.
        rounds: how often; medians count.
    """
    device = next(net.module.parameters()).device
    begun = time.perf_counter()
    net.find_bound(net.bound.method)
    bound_seconds = time.perf_counter() - begun
    certify: list[float] = []
    forward: list[float] = []
    for _ in range(rounds):
        certify.append(_seconds(lambda: evaluate(net, split, batch_size), device))
        forward.append(_seconds(lambda: _forward(net, split, batch_size), device))
    images, _ = next(iter(Batches(split, min(batch_size, len(split)), shuffle=False, device=device)))
    peak = peak_bytes(lambda: net.certify(images), net, [*net.parameters(), *net.buffers(), images])
    return CertificationCost(
        len(split),
        statistics.median(certify),
        statistics.median(forward),
        bound_seconds,
        peak / len(images) / 1e6,
    )


def _forward(net: GloRoNet, split: Split, batch_size: int) -> None:
    batches = Batches(split, min(batch_size, len(split)), shuffle=False, device=next(net.module.parameters()).device)
    with evaluation_mode(net.module), torch.no_grad():
        for images, _ in batches:
            net.module(images)


def _timed(trainer: Trainer, images: Tensor, labels: Tensor) -> float:
    return _seconds(lambda: trainer.step(images, labels), images.device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _peak(trainer: Trainer, images: Tensor, labels: Tensor) -> int:
    return peak_bytes(lambda: trainer.step(images, labels), trainer.net, _resident(trainer, images, labels))


def _resident(trainer: Trainer, *batch: Tensor) -> Iterable[Tensor]:
    yield from batch
    yield from trainer.net.state_dict().values()
    for moments in trainer.state.optimizer.state.values():
        yield from (value for value in moments.values() if isinstance(value, Tensor))
