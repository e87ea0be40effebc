"""Projected gradient descent (PGD) on a net: an upper bound on its robustness, and a trial of its certificates.

The attack itself is that of the Adversarial Robustness Toolbox, which the paper used too.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.model import GloRoNet
from gloro_fast.plan import evaluation_mode


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
        """Whether every attacked certificate held."""
        return not bool(self.broken.any())


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
    _check_arguments(net, images, labels, epsilon, steps, restarts)
    device = next(net.module.parameters()).device
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with _seeded_numpy(seed), current:
        estimator, attack = _toolbox()
        classifier = estimator(
            model=_copy(net.module),
            loss=nn.CrossEntropyLoss(),
            input_shape=net.input_shape,
            nb_classes=net.num_classes,
            clip_values=pixels,
            device_type="gpu" if device.type == "cuda" else "cpu",
        )
        found = attack(
            estimator=classifier,
            norm=2,
            eps=epsilon,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=restarts,
            batch_size=batch_size,
            verbose=False,
        ).generate(x=images.detach().cpu().numpy(), y=labels.cpu().numpy())
    return _within(torch.from_numpy(found).to(images), images, epsilon)


def unbroken(
    net: GloRoNet,
    images: Tensor,
    epsilon: float,
    *,
    steps: int = 40,
    restarts: int = 3,
    batch_size: int = 512,
    seed: int = 0,
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
        settings = {"steps": steps, "restarts": restarts, "batch_size": batch_size, "seed": seed}
        found = pgd(net, images[certified], prediction[certified], epsilon, pixels=None, **settings)
        with evaluation_mode(net.module), torch.no_grad():
            after = torch.cat([net.module(part.to(device)).argmax(dim=1) for part in torch.split(found, batch_size)])
        broken[certified] = after.to(images.device) != prediction[certified]
    return AttackReport(certified, broken, epsilon, certificates[0].method)


def _toolbox() -> tuple[Any, Any]:
    """Give the toolbox's classifier and attack; it is optional and slow to import, so it waits until asked for."""
    try:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ConfigError(
            f"attacks need the Adversarial Robustness Toolbox, which cannot be imported ({error}); "
            "install it with: pip install 'gloro-fast[attack]'"
        ) from error
    return PyTorchClassifier, ProjectedGradientDescentPyTorch


def _copy(module: nn.Module) -> nn.Module:
    """Give a copy in evaluation mode without parameter gradients: the toolbox sets modes and calls backward."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@contextlib.contextmanager
def _seeded_numpy(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, the only one the toolbox draws from, for a while."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _within(found: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Pull what the toolbox's float32 projection left a rounding outside of the ball back into it."""
    start, perturbation = images.double(), found.double() - images.double()
    norm = perturbation.flatten(1).norm(dim=1)
    # Rounding to float32 moves each pixel by half an ulp at most, and so the image by this much.
    largest = torch.maximum(start.abs(), found.double().abs()).flatten(1).amax(dim=1)
    rounding = math.sqrt(images[0].numel()) * torch.finfo(torch.float32).eps * largest
    allowed = (epsilon - rounding).clamp_min(0.0)
    scale = torch.where(norm > epsilon, allowed / norm, 1.0)
    pulled = (start + perturbation * scale.reshape(-1, *(1,) * (images.dim() - 1))).to(images.dtype)
    return torch.where((norm > epsilon).reshape(-1, *(1,) * (images.dim() - 1)), pulled, found)


def _check_arguments(net: GloRoNet, images: Tensor, labels: Tensor, epsilon: float, steps: int, restarts: int) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon is {epsilon:g}; the l2 radius to attack at must be a number greater than 0")
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; the attack needs at least 1")
    if images.dtype != torch.float32:
        raise DataError(f"images are {images.dtype}; the attack runs in float32, so convert images and net to it")
    if tuple(images.shape[1:]) != net.input_shape or len(images) == 0:
        raise DataError(f"images have shape {tuple(images.shape)}; give at least one of the net's {net.input_shape}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give one int64 label an image")
    if not 0 <= int(labels.min()) <= int(labels.max()) < net.num_classes:
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())} but the net has {net.num_classes} classes"
        )
