"""Projected gradient descent (PGD) on a net: an upper bound on its robustness, and a trial of its certificates.

The attack itself is that of the Adversarial Robustness Toolbox, which the paper used too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.evaluate.toolbox import check_arguments, prepared, within_ball
from gloro_fast.graph.plan import evaluation_mode
from gloro_fast.net.gloro_net import GloRoNet


@dataclass(frozen=True)
class AttackReport:
    """What became of the certificates of a batch under attack; true in a condition if none was broken.

    Attributes:
        certified: (B,) bool, images that were certified at epsilon; only these were attacked.
        broken: (B,) bool, those of them with a perturbation within epsilon that changes the prediction.
        epsilon: the l2 radius.
        method: the method that found K, with "(estimate)" where it is none but that.
    """

    certified: Tensor
    broken: Tensor
    epsilon: float
    method: str

    def __bool__(self) -> bool:
        """Return whether every attacked certificate held."""
        return not bool(self.broken.any())


Attack = Callable[..., Tensor]


def pgd(
    net: GloRoNet,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = 40,
    restarts: int = 3,
    step_size: float | None = None,
    pixels: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 512,
    seed: int = 0,
) -> Tensor:
    """Look for l2 perturbations of norm <= epsilon that make f = ``net.module`` predict something else.

    PGD on the cross entropy of f (Madry et al. 2018), each restart from a random point of the ball; an image keeps
    what the last successful restart found. The net itself is not touched: its copy in evaluation mode is attacked.

    Args:
        net: the net; bottom plays no part.
        images: (B, *input_shape) float32, on any device.
        labels: (B,) int64 in [0, m): what f should not predict any more.
        epsilon: l2 radius > 0, in units of the input.
        steps: gradient steps a restart, >= 1.
        restarts: random starts, >= 1.
        step_size: length of a step; 2.5 * epsilon / steps by default.
        pixels: (low, high) that perturbed pixels are clipped to, or None, as certificates allow more.
        batch_size: images at a time.
        seed: of the random starts; NumPy's global generator is left as it was.

    Returns:
        (B, *input_shape) float32 on the images' device; each within epsilon of its image by float64 measure.

    Raises:
        ConfigError: the toolbox is not installed, or an argument cannot be used.
        DataError: images or labels of another shape or type.
    """
    check_arguments(net, images, labels, epsilon, steps=steps, restarts=restarts)
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    freely = "" if pixels else ", pixels without limits"
    with prepared(net, pixels, seed, f"PGD{freely}", restarts * steps * len(images)) as classifier:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        found = ProjectedGradientDescentPyTorch(
            estimator=classifier,
            norm=2,
            eps=epsilon,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=restarts,
            batch_size=batch_size,
            verbose=False,
        ).generate(x=images.detach().cpu().numpy(), y=labels.cpu().numpy())
    return within_ball(torch.from_numpy(found).to(images), images, epsilon)


def unbroken(
    net: GloRoNet,
    images: Tensor,
    epsilon: float,
    *,
    steps: int = 40,
    restarts: int = 3,
    batch_size: int = 512,
    seed: int = 0,
    attack: Attack | None = None,
) -> AttackReport:
    """Certify ``images`` and attack every certified one: a sound certificate is never broken.

    The attack may leave [0, 1], since the certificate holds for every perturbation of norm <= epsilon.

    Args:
        net: the net.
        images: (B, *input_shape) float32.
        epsilon: l2 radius > 0 to certify and to attack at.
        steps: gradient steps a restart.
        restarts: random starts.
        batch_size: images at a time.
        seed: of the random starts.
        attack: another attack than this PGD, called as ``attack(net, images, labels, epsilon, pixels=None,
            batch_size=..., seed=...)``.

    Returns:
        Which images were certified and which of these were broken.

    Raises:
        ConfigError: the toolbox is not installed, or an argument cannot be used.
        DataError: images of another shape or type.
    """
    device = next(net.module.parameters()).device
    certificates = [net.certify(part.to(device), epsilon) for part in torch.split(images, batch_size)]
    certified = torch.cat([certificate.certified for certificate in certificates]).to(images.device)
    prediction = torch.cat([certificate.prediction for certificate in certificates]).to(images.device)
    broken = torch.zeros_like(certified)
    if bool(certified.any()):
        attack = functools.partial(pgd, steps=steps, restarts=restarts) if attack is None else attack
        chosen, labels = images[certified], prediction[certified]
        found = attack(net, chosen, labels, epsilon, pixels=None, batch_size=batch_size, seed=seed)
        broken[certified] = predictions(net, found, batch_size) != labels
    return AttackReport(certified, broken, epsilon, certificates[0].method)


def predictions(net: GloRoNet, images: Tensor, batch_size: int = 512) -> Tensor:
    """Return argmax f, (B,) int64 on the images' device, of images (B, *input_shape) float32."""
    device = next(net.module.parameters()).device
    with evaluation_mode(net.module), torch.no_grad():
        parts = [net.module(part.to(device)).argmax(dim=1) for part in torch.split(images, batch_size)]
    return torch.cat(parts).to(images.device)
