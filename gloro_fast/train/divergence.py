"""Noticing that training went to NaN or infinity, before that reaches a checkpoint."""

from __future__ import annotations

import torch

from gloro_fast.errors import DivergenceError
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.state import TrainingState

_REMEDY = "start a new run with a lower learning rate, a smaller epsilon_train or lam, or epsilon_schedule='log'"


def steps_between_checks(device: torch.device) -> int:
    """Say how often to look: on the CPU at each step; elsewhere seldom, since it waits for the device."""
    return 1 if device.type == "cpu" else 50


def check_finite_loss(state: TrainingState, folder: RunFolder) -> None:
    """Stop if the loss of a step of the running epoch was not finite; waits for the device.

    Raises:
        DivergenceError: names epoch and step.
    """
    step = state.sums.first_bad_step()
    if step:
        raise DivergenceError(
            f"the loss became NaN or infinite at step {step} of epoch {state.epoch + 1}; {_kept(folder)}; {_REMEDY}"
        )


def check_finite_weights(state: TrainingState, folder: RunFolder) -> None:
    """Stop if a weight or iterate is not finite, as after a last step with infinite gradients.

    Raises:
        DivergenceError: names the first tensor.
    """
    named = list(state.net.state_dict().items())
    finite: list[bool] = torch.stack([tensor.isfinite().all() for _, tensor in named]).tolist()
    for (name, _), good in zip(named, finite, strict=True):
        if not good:
            raise DivergenceError(
                f"{name} became NaN or infinite by step {state.batch} of epoch {state.epoch + 1}; "
                f"{_kept(folder)}; {_REMEDY}"
            )


def _kept(folder: RunFolder) -> str:
    return f"the last good state is kept in {folder.checkpoint}"
