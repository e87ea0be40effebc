"""A net under attack: the accuracy that is left, and whether its certificates hold."""

from __future__ import annotations

import functools
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gloro_fast.distributed import ALONE, Group
from gloro_fast.errors import SoundnessError
from gloro_fast.evaluate.attack import Attack, pgd, predictions, unbroken
from gloro_fast.evaluate.auto_attack import auto_attack
from gloro_fast.net.gloro_net import GloRoNet


@dataclass(frozen=True)
class Trial:
    """What one attack came to.

    Attributes:
        name: what it is called.
        settings: what it was run with.
        accuracy: share of the images that f still classifies correctly.
        broken: certified predictions that it changed, correct or not.
        seconds: how long it took.
    """

    name: str
    settings: dict[str, Any]
    accuracy: float
    broken: int
    seconds: float


@dataclass(frozen=True)
class Attacked:
    """What attacks at one radius did to a net.

    Attributes:
        epsilon: the l2 radius.
        images: how many were attacked.
        clean_accuracy: share classified correctly before.
        vra: share classified correctly and certified: no accuracy may come out below it.
        certified: images with a certificate, correct or not.
        method: the method that found K, with "(estimate)" where it is none but that.
        trials: one an attack.
    """

    epsilon: float
    images: int
    clean_accuracy: float
    vra: float
    certified: int
    method: str
    trials: tuple[Trial, ...]

    @property
    def broken(self) -> int:
        """Certificates that broke, summed over the attacks."""
        return sum(trial.broken for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)

    def check(self) -> None:
        """Refuse to go on after a certificate was broken.

        Raises:
            SoundnessError: one was, by a method that gives a bound.

        Warns:
            UserWarning: one was, by an estimate.
        """
        if not self.broken:
            return
        by = ", ".join(f"{trial.broken:,} by {trial.name}" for trial in self.trials if trial.broken)
        fact = f"certified predictions were changed at epsilon {self.epsilon:g}: {by}, of {self.certified:,}"
        if self.method.endswith("(estimate)"):
            warnings.warn(f"{fact}; {self.method} is no bound: certify with --method auto", stacklevel=2)
        else:
            raise SoundnessError(f"{fact}; the bound by {self.method} is wrong: trust no certificate of this net")


def attacked(
    net: GloRoNet,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 100,
    restarts: int = 3,
    auto: bool = False,
    queries: int = 5_000,
    batch_size: int = 512,
    seed: int = 0,
    group: Group = ALONE,
) -> Attacked:
    """Attack every image twice: with pixels in [0, 1] for the accuracy, and without that limit where it is certified.

    Args:
        net: the net, with any method of bounding.
        images: (B, *input_shape) float32.
        labels: (B,) int64.
        epsilon: l2 radius > 0.
        steps: gradient steps a restart.
        restarts: random starts.
        auto: run AutoAttack too.
        queries: steps of its Square attack a restart.
        batch_size: images at a time.
        seed: of all random numbers.
        group: who shares the work: each process attacks its share of the images, and all are told of every one. Random
            starts differ with their number.

    Raises:
        ConfigError: the toolbox is not installed, or an argument cannot be used.
        DataError: images or labels of another shape or type.
    """
    attacks: dict[str, tuple[Attack, dict[str, Any]]] = {"PGD": (pgd, {"steps": steps, "restarts": restarts})}
    if auto:
        attacks["AutoAttack"] = (auto_attack, {"steps": steps, "restarts": restarts, "queries": queries})
    share = group.share(len(images))
    count, images, labels = len(images), images[share.start : share.stop], labels[share.start : share.stop]
    correct = predictions(net, images, batch_size) == labels
    report, trials = None, []
    for name, (attack, settings) in attacks.items():
        begun = time.monotonic()
        run = functools.partial(attack, **settings)
        standing = correct.clone()
        if bool(correct.any()):
            found = run(net, images[correct], labels[correct], epsilon, batch_size=batch_size, seed=seed)
            standing[correct.clone()] = predictions(net, found, batch_size) == labels[correct]
        report = unbroken(net, images, epsilon, batch_size=batch_size, seed=seed, attack=run)
        survived, broken = _counts(group, standing, report.broken)
        trials.append(Trial(name, settings, survived / count, broken, round(time.monotonic() - begun, 2)))
    assert report is not None
    clean, verified, certified = _counts(group, correct, correct & report.certified, report.certified)
    return Attacked(epsilon, count, clean / count, verified / count, certified, report.method, tuple(trials))


def _counts(group: Group, *conditions: Tensor) -> list[int]:
    """Count where each of some conditions holds, over the images of all processes."""
    counts: list[int] = group.sum_(torch.stack([condition.sum().cpu() for condition in conditions])).tolist()
    return counts
