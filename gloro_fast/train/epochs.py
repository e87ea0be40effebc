"""What holds for an epoch: warm-up or robust, and its epsilon, lambda and learning rate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

from gloro_fast.losses import LOSSES
from gloro_fast.recipes import Recipe, schedules
from gloro_fast.train.running import Running

Phase = Literal["warmup", "robust", "standard"]


@dataclass(frozen=True)
class EpochSettings:
    """What is fixed within an epoch.

    Attributes:
        phase: ``"warmup"`` (plain cross entropy on f), ``"robust"``, or ``"standard"`` for losses of f alone.
        epsilon: the l2 radius trained with; None in warm-up and where the loss has none.
        lam: the weight lambda of the loss; None in warm-up and for losses without it.
        learning_rate: the optimizer's.
    """

    phase: Phase
    epsilon: float | None
    lam: float | None
    learning_rate: float


def epoch_settings(recipe: Recipe, epoch: int) -> EpochSettings:
    """Return the settings of an epoch.

    Args:
        recipe: the recipe.
        epoch: index from 0, warm-up epochs first; the schedules count from the first robust one
            (Leino et al. 2021, Appendix B).
    """
    t = epoch - recipe.warmup_epochs
    if t < 0:
        return EpochSettings("warmup", None, None, recipe.learning_rate)
    rate = schedules.exponential_after_half(recipe.learning_rate, recipe.learning_rate_end, recipe.epochs)
    loss = LOSSES[recipe.loss]
    phase: Phase = "robust" if loss.with_bottom else "standard"
    epsilon = schedules.parse_epsilon(recipe.epsilon_schedule, recipe.epsilon_train, recipe.epochs)
    lam = schedules.parse_lambda(recipe.lam) if recipe.has_lambda else None
    return EpochSettings(phase, epsilon(t) if loss.has_epsilon else None, None if lam is None else lam(t), rate(t))


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv; None where the epoch has no such value.

    Attributes:
        epoch: number from 1, warm-up epochs counted.
        phase: ``"warmup"``, ``"robust"`` or ``"standard"``.
        loss: mean training loss.
        train_clean: share of the training images classified correctly, each with the weights of its step.
        train_vra: share of them also certified at this epoch's ``epsilon`` with the estimate of its step.
        lipschitz: K as the last step estimated it.
        epsilon: the l2 radius trained with; None where the loss has none.
        lam: the weight lambda of the loss.
        learning_rate: the optimizer's.
        seconds: duration of the training part of the epoch.
        validation_clean: share of the validation images classified correctly.
        validation_vra: share of them also certified at the recipe's ``epsilon``, by the estimate.
        validation_lipschitz: K that this was certified with, the estimate by ``power``.
        bound_gap: K by the default method, an upper bound, over the estimate by ``power``, of the weights at the end
            of the epoch; found in some ten epochs of a run, the last among them; None for nets that take long to bound.
    """

    epoch: int
    phase: Phase
    loss: float
    train_clean: float
    train_vra: float | None
    lipschitz: float | None
    epsilon: float | None
    lam: float | None
    learning_rate: float
    seconds: float
    validation_clean: float | None = None
    validation_vra: float | None = None
    validation_lipschitz: float | None = None
    bound_gap: float | None = None

    @classmethod
    def of(cls, epoch: int, settings: EpochSettings, running: Running, seconds: float) -> EpochMetrics:
        """Put the row of an epoch together, without validation."""
        robust = settings.phase == "robust"
        return cls(
            epoch=epoch,
            phase=settings.phase,
            loss=running.loss,
            train_clean=running.clean,
            train_vra=running.vra if robust else None,
            lipschitz=running.lipschitz if robust else None,
            epsilon=settings.epsilon,
            lam=settings.lam,
            learning_rate=settings.learning_rate,
            seconds=round(seconds, 3),
        )

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Return the columns by name."""
        return asdict(self)


COLUMNS = tuple(field.name for field in fields(EpochMetrics))
