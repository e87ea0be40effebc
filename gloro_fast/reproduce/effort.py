"""How much work goes into what is measured after training."""

from __future__ import annotations

from dataclasses import dataclass

from gloro_fast.bounds import DEFAULT_METHOD


@dataclass(frozen=True)
class Effort:
    """Numbers of images, steps and samples; the defaults are the paper's where it names them.

    Attributes:
        method: of the Lipschitz bound that certifies, a name in ``gloro_fast.bounds.METHODS``.
        attack_images: test images to attack, evenly spaced in the split; None for all.
        attack_steps: gradient steps of PGD a restart.
        attack_restarts: its random starts.
        auto_attack: whether AutoAttack runs too.
        pairs: initial pairs, and balls, of the lower bounds.
        global_steps: gradient steps for the global lower bound, at most.
        local_steps: for the local ones.
        cost_rounds: timed training steps.
        smoothing_images: test images to certify by sampling.
        smoothing_samples: noisy copies of each.
        noise_images: held-out images to choose the noise by.
        noise_samples: noisy copies of each.
    """

    method: str = DEFAULT_METHOD
    attack_images: int | None = None
    attack_steps: int = 100
    attack_restarts: int = 2
    auto_attack: bool = False
    pairs: int = 100
    global_steps: int = 7_500
    local_steps: int = 5_000
    cost_rounds: int = 15
    smoothing_images: int = 500
    smoothing_samples: int = 10_000
    noise_images: int = 200
    noise_samples: int = 1_000


QUICK = Effort(
    attack_images=100,
    attack_steps=10,
    attack_restarts=1,
    pairs=5,
    global_steps=100,
    local_steps=100,
    cost_rounds=3,
    smoothing_images=10,
    smoothing_samples=200,
    noise_images=10,
    noise_samples=100,
)
"""Enough to see that everything works, in seconds; the report says so."""
