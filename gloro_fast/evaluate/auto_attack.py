"""AutoAttack for l2 as the Adversarial Robustness Toolbox composes it: an ensemble, each on what the others left."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gloro_fast.evaluate.attack import predictions
from gloro_fast.evaluate.toolbox import check_arguments, prepared, within_ball
from gloro_fast.net.gloro_net import GloRoNet


def auto_attack(
    net: GloRoNet,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 100,
    restarts: int = 5,
    queries: int = 5_000,
    pixels: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 512,
    seed: int = 0,
) -> Tensor:
    """Look for l2 perturbations of norm <= epsilon that make f = ``net.module`` predict something else.

    APGD on the cross entropy, APGD on the difference of logits ratio (with at least 3 classes), DeepFool, and the
    Square attack (with pixels to clip to, and images of at least 8 x 8), in this order, each on the images that are
    still predicted as labelled. These are the attacks and settings of the toolbox's own AutoAttack; the original
    (Croce and Hein 2020) has targeted APGD and FAB in the place of the second and third.

    Args:
        net: the net; bottom plays no part, and it is not touched.
        images: (B, *input_shape) float32, on any device.
        labels: (B,) int64 in [0, m).
        epsilon: l2 radius > 0, in units of the input.
        steps: gradient steps of APGD a restart, and of DeepFool.
        restarts: random starts of APGD and of the Square attack.
        queries: steps of the Square attack a restart.
        pixels: (low, high) that perturbed pixels are clipped to, or None, as certificates allow more.
        batch_size: images at a time.
        seed: of all random numbers; NumPy's global generator is left as it was.

    Returns:
        (B, *input_shape) float32 on the images' device, each within epsilon of its image by float64 measure; an image
        that withstood comes back unchanged.

    Raises:
        ConfigError: the toolbox is not installed, or an argument cannot be used.
        DataError: images or labels of another shape or type.
    """
    check_arguments(net, images, labels, epsilon, steps=steps, restarts=restarts, queries=queries)
    result = images.detach().clone()
    square = pixels is not None and images.dim() == 4 and min(images.shape[2:]) >= 8
    with prepared(net, pixels, seed, "AutoAttack" if pixels else "AutoAttack, pixels without limits") as classifier:
        for attack in _attacks(classifier, epsilon, steps, restarts, queries, batch_size, square):
            standing = predictions(net, result, batch_size) == labels.to(result.device)
            if not bool(standing.any()):
                break
            original = images.detach()[standing]
            found = within_ball(_run(attack, original, labels[standing.to(labels.device)]), original, epsilon)
            usable = found.flatten(1).isfinite().all(dim=1)
            broken = usable & (predictions(net, found, batch_size) != labels.to(result.device)[standing])
            result[standing.nonzero().flatten()[broken]] = found[broken]
    return result


def _run(attack: Any, images: Tensor, labels: Tensor) -> Tensor:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The Square attack divides by the norm of a window of zeros; what comes of that is thrown away.
        warnings.simplefilter("ignore")
        found = attack.generate(x=images.cpu().numpy(), y=labels.cpu().numpy())
    return torch.from_numpy(np.ascontiguousarray(found)).to(images)


def _attacks(
    classifier: Any, epsilon: float, steps: int, restarts: int, queries: int, batch_size: int, square: bool
) -> list[Any]:
    from art.attacks.evasion import AutoProjectedGradientDescent, DeepFool, SquareAttack

    # With 2 classes the ratio of differences has no third logit to divide by.
    losses = ["cross_entropy", *(["difference_logits_ratio"] if classifier.nb_classes > 2 else [])]
    attacks: list[Any] = [
        AutoProjectedGradientDescent(
            classifier,
            norm=2,
            eps=epsilon,
            eps_step=epsilon / 4,
            max_iter=steps,
            nb_random_init=restarts,
            batch_size=batch_size,
            loss_type=loss,
            verbose=False,
        )
        for loss in losses
    ]
    attacks.append(DeepFool(classifier, max_iter=steps, epsilon=1e-3, batch_size=batch_size, verbose=False))
    if square:
        attacks.append(
            SquareAttack(
                classifier,
                norm=2,
                eps=epsilon,
                max_iter=queries,
                nb_restarts=restarts,
                batch_size=batch_size,
                verbose=False,
            )
        )
    return attacks
