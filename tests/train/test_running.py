"""The sums over an epoch: the same bits whenever somebody asks for them."""

import math

import pytest
import torch

from gloro_fast.train import running
from gloro_fast.train.running import RunningSums


def add(sums, step, loss=0.1, images=3, correct=2, verified=1, lipschitz=5.0):
    sums.record(
        torch.tensor(loss, requires_grad=True),
        torch.tensor(correct),
        torch.tensor(verified),
        torch.tensor(lipschitz),
    )
    sums.count(step, images)


def test_means_and_the_last_constant():
    sums = RunningSums()
    add(sums, 1, loss=0.5, images=4, correct=3, verified=2, lipschitz=7.0)
    add(sums, 2, loss=1.0, images=2, correct=2, verified=0, lipschitz=6.0)
    found = sums.read()
    assert (found.loss, found.clean, found.vra, found.lipschitz) == (4.0 / 6, 5 / 6, 2 / 6, 6.0)
    sums.reset()
    assert sums.values.tolist() == [0.0] * 6


def test_asking_in_between_changes_no_bit(monkeypatch):
    monkeypatch.setattr(running, "_MOST_WAITING", 7)
    losses = torch.rand(100).tolist()
    quiet, asked = RunningSums(), RunningSums()
    for step, loss in enumerate(losses, 1):
        add(quiet, step, loss)
        add(asked, step, loss)
        assert len(quiet._waiting) < 7
        if step % 3 == 0:
            asked.read()
    assert torch.equal(quiet.values, asked.values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_step_whose_loss_is_not_finite_stays(bad):
    sums = RunningSums()
    add(sums, 1)
    assert sums.first_bad_step() == 0
    for step, loss in ((2, bad), (3, 0.1), (4, math.nan)):
        add(sums, step, loss)
    assert sums.first_bad_step() == 2


def test_counts_of_a_large_batch_are_exact():
    sums = RunningSums()
    add(sums, 1, images=2**24, correct=2**24 - 1, verified=2**23 + 1)
    assert sums.values[2:4].tolist() == [2**24 - 1, 2**23 + 1]


def test_a_saved_state_goes_on():
    first, second = RunningSums(), RunningSums()
    add(first, 1)
    second.values.copy_(first.values)
    for sums in (first, second):
        add(sums, 2, loss=0.7)
    assert torch.equal(first.values, second.values)
