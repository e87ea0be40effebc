"""Model selection on a validation split, held out of the training split; the test split has no part in it."""

from __future__ import annotations

import dataclasses

from gloro_fast.data import Source, Split
from gloro_fast.evaluate import evaluate
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.state import Best, TrainingState


def validate(state: TrainingState, split: Split | Source, row: EpochMetrics, epsilon: float) -> EpochMetrics:
    """Certify the validation split by power iteration, and keep the weights if its VRA is the highest so far.

    Of epochs with equal VRA the latest is kept: it was trained longer, nearer to the end of the schedules.

    Args:
        state: its ``best`` is replaced by a copy of the present weights if they are no worse.
        split: the validation split.
        row: metrics of the epoch that is over.
        epsilon: the certified l2 radius, not the one trained with.

    Returns:
        The row with its validation columns.
    """
    # An estimate, as in the paper: it is there to compare epochs. The result at the end rests on an upper bound.
    state.net.freeze("power")
    try:
        found = evaluate(state.net, split)
    finally:
        state.net.unfreeze()
    vra = found.vra(epsilon)
    if state.best is None or vra >= state.best.vra:
        weights = {name: tensor.clone() for name, tensor in state.net.state_dict().items()}
        state.best = Best(row.epoch, vra, weights)
    return dataclasses.replace(
        row, validation_clean=found.clean_accuracy, validation_vra=vra, validation_lipschitz=found.lipschitz
    )
