"""Logit annealing against the definition, row by row in Python, and its limits, which are other losses."""

import math

import pytest
import torch
from random_margins import problem

from gloro_fast.errors import ConfigError
from gloro_fast.losses import LogitAnnealingLoss
from gloro_fast.ops import (
    emma_reference,
    logit_annealing,
    logit_annealing_reference,
    margin_reference,
)

EPSILON = 0.3


def by_hand(logits, differences, lipschitz, labels, temperature, offset, power):
    losses = []
    for f, y in zip(logits.tolist(), labels.tolist(), strict=True):
        rise = [EPSILON * lipschitz.item() * d for d in differences[y].tolist()]
        gap = [value - f[y] for value in f]
        z = [
            (0.0 - offset if i == y else g + min(max(-g / r, 0.01), 1.0) * r) / temperature
            for i, (g, r) in enumerate(zip(gap, rise, strict=True))
        ]
        p = math.exp(z[y]) / sum(map(math.exp, z))
        losses.append(-temperature * (1 - p) ** power * math.log(p))
    return losses


@pytest.mark.parametrize("numbers", [(0.75, 2.0, 5.0), (0.5, 0.3, 1.5)])
def test_it_is_the_definition(numbers):
    *arguments, labels = problem()
    loss = logit_annealing_reference(*arguments, EPSILON, labels, *numbers)
    expected = torch.tensor(by_hand(*arguments, labels, *numbers), dtype=torch.float64)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)


def test_its_gradient_is_that_of_its_values():
    """Without a ball, where nothing that EMMA takes for a constant moves."""
    logits, differences, lipschitz, labels = problem(rows=5)
    assert torch.autograd.gradcheck(
        lambda f: logit_annealing_reference(f, differences.detach(), lipschitz, 0.0, labels), logits
    )


def test_without_its_numbers_it_is_emma():
    *arguments, labels = problem()
    loss = logit_annealing_reference(*arguments, EPSILON, labels, 1.0, 0.0, 0.0)
    torch.testing.assert_close(loss, emma_reference(*arguments, EPSILON, labels), rtol=1e-13, atol=0)


def test_beyond_the_offset_it_gives_less_than_cross_entropy():
    differences, labels = torch.ones(2, 2).fill_diagonal_(0), torch.tensor([0])
    ratios = []
    for margin in (1.0, 3.0, 6.0):
        logits = torch.tensor([[margin, 0.0]], dtype=torch.float64, requires_grad=True)
        gradients = [
            torch.autograd.grad(
                logit_annealing_reference(logits, differences, torch.tensor(0.0), 0.0, labels, power=power).sum(),
                logits,
            )[0][0, 0]
            for power in (5.0, 0.0)
        ]
        ratios.append(float(gradients[0] / gradients[1]))
    # Short of the offset of 2 points get as much as before, or more; far beyond, nothing.
    assert ratios[0] > 0.8
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] < 1e-3


def test_a_sure_row_has_a_finite_gradient():
    logits = torch.tensor([[90.0, 0.0], [-90.0, 0.0]], requires_grad=True)
    differences, labels = torch.ones(2, 2).fill_diagonal_(0), torch.tensor([0, 0])
    loss = logit_annealing_reference(logits, differences, torch.tensor(1.0), EPSILON, labels)
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


def test_counts_are_those_of_the_margin_and_the_criterion_has_the_numbers():
    *arguments, labels = problem()
    loss, prediction, certified = logit_annealing(*arguments, EPSILON, labels, 0.5, 1.0, 2.0)
    _, expected, radius = margin_reference(*arguments, EPSILON)
    assert torch.equal(prediction, expected)
    assert torch.equal(certified, radius > EPSILON)
    found = LogitAnnealingLoss(0.5, 1.0, 2.0).with_margin(*arguments, EPSILON, labels)
    assert torch.equal(found[0], loss)
    with pytest.raises(ConfigError, match=r"temperature and power are 0 and 5\.0"):
        LogitAnnealingLoss(0)
