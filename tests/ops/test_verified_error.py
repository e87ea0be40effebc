"""The loss of verified errors against the definition, row by row in Python, its limits, and what it bounds."""

import math

import pytest
import torch
from random_margins import problem

from gloro_fast import recipes
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.losses import LOSSES, VerifiedErrorLoss
from gloro_fast.ops import (
    emma_reference,
    margin_reference,
    verified_error,
    verified_error_reference,
)

EPSILON = 0.3


def by_hand(logits, differences, lipschitz, labels, lam):
    losses = []
    for f, y in zip(logits.tolist(), labels.tolist(), strict=True):
        rise = [EPSILON * lipschitz.item() * d for d in differences[y].tolist()]
        whole, tied = 0.0, 0.0
        for i, value in enumerate(f):
            gap = value - f[y]
            whole += math.exp(gap + rise[i])
            tied += 1.0 if i == y else math.exp(gap + min(max(-gap / rise[i], 0.01), 1.0) * rise[i])
        losses.append((1 - lam) * math.log(tied) + lam * (1 - 1 / whole))
    return losses


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_it_is_the_definition(lam):
    *arguments, labels = problem()
    loss = verified_error_reference(*arguments, EPSILON, labels, lam)
    expected = torch.tensor(by_hand(*arguments, labels, lam), dtype=torch.float64)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)


def test_its_gradient_is_that_of_its_values():
    """With lambda = 1: EMMA takes the share of a rise for a constant."""
    *arguments, labels = problem(rows=5)
    assert torch.autograd.gradcheck(
        lambda f, d, k: verified_error_reference(f, d, k, EPSILON, labels, 1.0), tuple(arguments)
    )


def test_without_lambda_it_is_emma():
    *arguments, labels = problem()
    loss = verified_error_reference(*arguments, EPSILON, labels, torch.tensor(0.0, dtype=torch.float64))
    assert torch.equal(loss, emma_reference(*arguments, EPSILON, labels))


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_twice_its_mean_bounds_the_verified_error(lam):
    *arguments, labels = problem(rows=400)
    loss, prediction, certified = verified_error(*arguments, EPSILON, labels, lam)
    errors = ~(certified & (prediction == labels))
    assert 0.1 < errors.double().mean() < 0.9
    assert (2 * loss[errors] >= 1).all()
    assert (loss >= 0).all()


def test_points_far_from_their_certificate_hardly_pull():
    differences, labels = torch.ones(2, 2, dtype=torch.float64).fill_diagonal_(0), torch.tensor([0])
    pulls = []
    for margin in (10.0, 3.0, -4.0):  # the ball takes 3
        logits = torch.tensor([[margin, 0.0]], dtype=torch.float64, requires_grad=True)
        pair = [
            -torch.autograd.grad(
                verified_error_reference(
                    logits, differences, torch.tensor(3.0, dtype=torch.float64), 1.0, labels, lam
                ).sum(),
                logits,
            )[0][0, 0].item()
            for lam in (0.0, 1.0)
        ]
        pulls.append(pair)
    (_, sure), (emma_near, near), (emma_far, far) = pulls
    assert near == pytest.approx(0.25)
    assert emma_near == pytest.approx(0.5)
    assert sure < 1e-3
    assert far < 1e-2
    assert emma_far > 0.9


def test_counts_are_those_of_the_margin_and_the_criterion_has_lambda():
    *arguments, labels = problem()
    loss, prediction, certified = verified_error(*arguments, EPSILON, labels, 0.25)
    _, expected, radius = margin_reference(*arguments, EPSILON)
    assert torch.equal(prediction, expected)
    assert torch.equal(certified, radius > EPSILON)
    criterion = LOSSES["verified-error"].build()
    assert isinstance(criterion, VerifiedErrorLoss)
    assert criterion.lam == 0
    criterion.lam = 0.25
    assert torch.equal(criterion.with_margin(*arguments, EPSILON, labels)[0], loss)
    assert "lam=0.25" in repr(criterion)


@pytest.mark.parametrize("lam", [-0.1, 1.5, math.nan, "1"])
def test_lambda_out_of_range_is_refused(lam):
    with pytest.raises(ConfigError, match=r"lam is .*; the share of the smooth count must be a number from 0 to 1"):
        VerifiedErrorLoss(lam)
    criterion = VerifiedErrorLoss(0.5)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        criterion.lam = lam
    assert criterion.lam == 0.5


def test_recipes_refuse_more_than_the_whole():
    recipe = recipes.get("digits-liresnet")
    assert recipe.override(loss="verified-error", lam="0,1,50").lam == "0,1,50"
    for lam in ("1.5", "0,2,50", "2,0,50"):
        with pytest.raises(ConfigError, match=rf"lam is {lam}; loss 'verified-error' takes at most 1"):
            recipe.override(loss="verified-error", lam=lam)


def test_labels_as_probabilities_are_refused():
    *arguments, labels = problem()
    with pytest.raises(DataError, match="VerifiedErrorLoss needs class indices"):
        VerifiedErrorLoss(0.5).with_margin(*arguments, EPSILON, torch.nn.functional.one_hot(labels, 4).double())
