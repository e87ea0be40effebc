"""Minutes shared out: among rows, and in each of them between training and what is measured of the net."""

from __future__ import annotations

import dataclasses

from gloro_fast.recipes import Recipe
from gloro_fast.reproduce.effort import Effort

# Of a row's time; what training leaves of it, more or less than the rest, measuring gets.
_TRAINING = 0.6
# Of the time for measuring, for attacks; the rest is for lower bounds, less some for pictures.
_ATTACKS, _LOWER_BOUNDS = 0.55, 0.35
# Steps, restarts, and the fewest images for which so many are worth it: the first that fits counts.
_ATTACKS_BY_COST = ((100, 2, 500), (100, 1, 100), (20, 1, 20))
_FEWEST_PAIRS, _FEWEST_STEPS, _WORTHWHILE_STEPS = 5, 100, 2_000
_FEWEST_SAMPLED = 20


def share(left: float, weight: float, to_come: float, least: float = 0.0) -> float:
    """Return the seconds that a row gets: by its weight or, as those that matter most come first, by its need.

    Args:
        left: seconds of all that are left.
        weight: of the row.
        to_come: weights of the row and of those after it, added up.
        least: without which the row comes to nothing; it gets that if half of what is left is enough.
    """
    left = max(left, 0.0)
    return max(left * weight / to_come, least if least <= left / 2 else 0.0)


def least(seconds_per_epoch: float, runs: int = 1) -> float:
    """Return the seconds in which a row can train for an epoch, and be measured."""
    return 1.001 * runs * seconds_per_epoch / _TRAINING


def epochs_within(recipe: Recipe, seconds: float, seconds_per_epoch: float, runs: int = 1) -> dict[str, int] | None:
    """Return the fields that make training by a recipe fit, warm-up and all, as far as that takes fewer epochs.

    Args:
        recipe: as the row has it.
        seconds: the row's, for training and measuring.
        seconds_per_epoch: of training.
        runs: trainings of the row.

    Returns:
        ``epochs`` and ``warmup_epochs``, or nothing where all fit; None where not one epoch does.
    """
    wanted = (recipe.epochs + recipe.warmup_epochs) * seconds_per_epoch * runs
    part = _TRAINING * seconds / wanted
    if part >= 1:
        return {}
    epochs = int(part * recipe.epochs)
    return {"epochs": epochs, "warmup_epochs": int(part * recipe.warmup_epochs)} if epochs else None


def attacks_within(effort: Effort, seconds: float, seconds_per_step: float) -> Effort:
    """Attack no more images, with no more steps, than fit; twenty images with twenty steps at the least.

    Args:
        effort: at most so much.
        seconds: for everything that is measured.
        seconds_per_step: a gradient step of the attacks on one image.
    """
    steps_in_all = _ATTACKS * seconds / seconds_per_step
    for steps, restarts, fewest in _ATTACKS_BY_COST:
        steps, restarts = min(steps, effort.attack_steps), min(restarts, effort.attack_restarts)
        images = int(steps_in_all / (steps * restarts))
        if images >= fewest:
            break
    images = max(images, fewest)
    most = images if effort.attack_images is None else min(images, effort.attack_images)
    return dataclasses.replace(effort, attack_images=most, attack_steps=steps, attack_restarts=restarts)


def lower_bounds_within(effort: Effort, seconds: float, seconds_per_step: float, fewer_is_faster: bool) -> Effort:
    """Look for lower bounds by no more pairs and gradient steps than fit; five and a hundred at the least.

    Args:
        effort: at most so much.
        seconds: for everything that is measured.
        seconds_per_step: a gradient step on all pairs of ``effort``.
        fewer_is_faster: whether half the pairs take half the time, as on the CPU.
    """
    steps = _LOWER_BOUNDS * seconds / seconds_per_step
    wanted = effort.global_steps + effort.local_steps
    pairs = effort.pairs
    if fewer_is_faster and steps < min(wanted, _WORTHWHILE_STEPS):
        pairs = min(pairs, max(_FEWEST_PAIRS, int(pairs * steps / min(wanted, _WORTHWHILE_STEPS))))
        steps *= effort.pairs / pairs
    part = min(1.0, steps / wanted)
    return dataclasses.replace(
        effort,
        pairs=pairs,
        global_steps=_some(part, effort.global_steps, _FEWEST_STEPS),
        local_steps=_some(part, effort.local_steps, _FEWEST_STEPS),
    )


def samples_within(effort: Effort, seconds: float, seconds_per_sample: float, noises: int) -> Effort:
    """Certify by sampling no more images than fit; where those are under twenty, with a tenth of the samples.

    Args:
        effort: at most so much.
        seconds: for everything that is measured.
        seconds_per_sample: for one noisy copy of an image.
        noises: how many to choose from.
    """
    wanted = (
        effort.smoothing_images * effort.smoothing_samples + noises * effort.noise_images * effort.noise_samples
    ) * seconds_per_sample
    part = min(1.0, seconds / wanted)
    samples, noise_samples = effort.smoothing_samples, effort.noise_samples
    if part * effort.smoothing_images < min(_FEWEST_SAMPLED, effort.smoothing_images):
        part = min(1.0, 10 * part)
        samples, noise_samples = max(samples // 10, 1), max(noise_samples // 10, 1)
    return dataclasses.replace(
        effort,
        smoothing_images=_some(part, effort.smoothing_images),
        smoothing_samples=samples,
        noise_images=_some(part, effort.noise_images),
        noise_samples=noise_samples,
    )


def _some(part: float, most: int, fewest: int = _FEWEST_SAMPLED) -> int:
    return min(most, max(fewest, int(part * most)))
