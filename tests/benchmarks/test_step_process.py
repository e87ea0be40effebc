from __future__ import annotations

import pytest
import torch

from benchmarks.step_process import OURS, STOCK, StepProcess, choose
from benchmarks.stock import Settings

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "settings"), [(OURS, None), (STOCK, Settings(channels_last=True))])
def test_a_step_is_done_for_every_call(kind, settings):
    with StepProcess("2C2F", CPU, kind, settings) as step:
        step()
        step()
    assert step.ended


def test_candidates_come_with_the_fastest_first():
    medians = choose("2C2F", CPU, STOCK, [Settings(), Settings(fused=True)], rounds=1)
    assert set(medians) == {Settings(), Settings(fused=True)}
    assert list(medians.values()) == sorted(medians.values())


def test_what_fails_there_is_raised_here():
    with StepProcess("2C2F", CPU, "nobody") as step, pytest.raises(RuntimeError, match="no contender 'nobody'"):
        step()
