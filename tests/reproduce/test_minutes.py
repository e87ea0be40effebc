"""Minutes shared out: what fits, what is cut first, and how long an epoch is said to take."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from gloro_fast.recipes import get
from gloro_fast.reproduce import budget, pace
from gloro_fast.reproduce.effort import QUICK, Effort


def test_shares_of_what_is_left_add_up():
    weights, left, shares = [12.0, 14.0, 28.0, 1.0], 420.0, []
    for place, weight in enumerate(weights):
        shares.append(budget.share(left, weight, sum(weights[place:])))
        left -= shares[-1]
    assert sum(shares) == pytest.approx(420)
    assert shares == pytest.approx([420 * weight / 55 for weight in weights])
    assert budget.share(-3.0, 1.0, 2.0) == 0


def test_a_row_that_comes_first_gets_what_it_needs_but_no_more_than_half():
    assert budget.share(60.0, 12.0, 120.0) == 6
    assert budget.share(60.0, 12.0, 120.0, least=29.0) == 29
    assert budget.share(60.0, 12.0, 120.0, least=31.0) == 6
    assert budget.share(60.0, 12.0, 120.0, least=3.0) == 6
    recipe = get("mnist-2c2f")
    assert budget.epochs_within(recipe, budget.least(7.0), 7.0) == {"epochs": 1, "warmup_epochs": 0}


@pytest.mark.parametrize(
    ("seconds", "per_epoch", "runs", "fields"),
    [
        (100, 0.1, 1, {}),
        (100, 1.0, 1, {"epochs": 60, "warmup_epochs": 0}),
        (100, 1.0, 3, {"epochs": 20, "warmup_epochs": 0}),
        (100, 59.0, 1, {"epochs": 1, "warmup_epochs": 0}),
        (100, 61.0, 1, None),
        (0, 1.0, 1, None),
    ],
)
def test_epochs(seconds, per_epoch, runs, fields):
    assert budget.epochs_within(get("mnist-2c2f"), seconds, per_epoch, runs) == fields


def test_warmup_shrinks_with_the_epochs():
    recipe = get("cifar10-6c2f-relu-ce")
    assert (recipe.warmup_epochs, recipe.epochs) == (20, 800)
    # 82 epochs fit, of 820.
    assert budget.epochs_within(recipe, 82 / 0.6, 1.0) == {"epochs": 80, "warmup_epochs": 2}


@pytest.mark.parametrize(
    ("steps_that_fit", "images", "steps", "restarts"),
    [
        (10**7, 50_000, 100, 2),
        (200 * 500, 500, 100, 2),
        (200 * 500 - 1, 999, 100, 1),
        (100 * 100, 100, 100, 1),
        (100 * 100 - 1, 499, 20, 1),
        (1, 20, 20, 1),
    ],
)
def test_attacks(steps_that_fit, images, steps, restarts):
    # As many as fit into 0.55 of a second; the half keeps off the edge that rounding makes.
    found = budget.attacks_within(Effort(), 1.0, 0.55 / (steps_that_fit + 0.5))
    assert (found.attack_images, found.attack_steps, found.attack_restarts) == (images, steps, restarts)
    assert found.attack_images * steps * restarts <= max(steps_that_fit, 400)


def test_nothing_grows_beyond_what_was_asked():
    found = budget.attacks_within(QUICK, 1e9, 1e-9)
    found = budget.lower_bounds_within(found, 1e9, 1e-9, fewer_is_faster=True)
    assert budget.samples_within(found, 1e9, 1e-9, 3) == QUICK


def test_lower_bounds_on_a_gpu_have_fewer_steps_and_elsewhere_fewer_pairs_first():
    # A thousand steps on all pairs fit, of 12,500.
    gpu = budget.lower_bounds_within(Effort(), 1.0, 0.35 / 1000, fewer_is_faster=False)
    assert (gpu.pairs, gpu.global_steps, gpu.local_steps) == (100, 600, 400)
    cpu = budget.lower_bounds_within(Effort(), 1.0, 0.35 / 1000, fewer_is_faster=True)
    assert (cpu.pairs, cpu.global_steps, cpu.local_steps) == (50, 1200, 800)
    least = budget.lower_bounds_within(Effort(), 0.0, 1.0, fewer_is_faster=True)
    assert (least.pairs, least.global_steps, least.local_steps) == (5, 100, 100)


def test_samples():
    effort = Effort()
    every = effort.smoothing_images * effort.smoothing_samples + 3 * effort.noise_images * effort.noise_samples
    half = budget.samples_within(effort, every / 2, 1.0, 3)
    assert (half.smoothing_images, half.noise_images, half.smoothing_samples) == (250, 100, 10_000)
    few = budget.samples_within(effort, every / 100, 1.0, 3)
    assert (few.smoothing_images, few.smoothing_samples, few.noise_samples) == (50, 1_000, 100)
    assert budget.samples_within(effort, 0.0, 1.0, 3) == dataclasses.replace(
        effort, smoothing_images=20, smoothing_samples=1_000, noise_images=20, noise_samples=100
    )


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def watched(clock, seconds, batches, took):
    """Tell a pace of steps that take so long, until it has seen enough; give what it says."""
    found = pace._Pace(seconds)
    found.on_start(SimpleNamespace(batches=batches))

    def train():
        for place in range(10_000):
            clock.now += took(place)
            found.on_step(SimpleNamespace(running=lambda: None))
            if place % batches == batches - 1:
                clock.now += 0.5  # A checkpoint, and what else comes at the end.
                found.on_epoch(None)

    with pytest.raises(pace._SeenEnoughError):
        train()
    return found.seconds_per_epoch


def test_an_epoch_is_timed_with_what_comes_at_its_end_and_the_first_is_not_counted(clock):
    assert watched(clock, 60.0, 4, lambda place: 20.0 if place == 0 else 0.25) == pytest.approx(1.5)


def test_a_long_epoch_is_not_waited_for(clock):
    begun = clock.now
    # The first steps, which compile, do not count, however long they take.
    assert watched(clock, 3.0, 100, lambda place: 50.0 if place < 3 else 1.0) == pytest.approx(100)
    assert clock.now - begun == 154
    assert watched(clock, 0.0, 100, lambda place: 7.0) == pytest.approx(700)
    assert clock.now - begun == 154 + 4 * 7
