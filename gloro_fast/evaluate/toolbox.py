"""What every attack of the Adversarial Robustness Toolbox needs: f as its classifier, checks, the exact ball."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.progress import Progress


@contextlib.contextmanager
def prepared(
    net: GloRoNet, pixels: tuple[float, float] | None, seed: int, what: str, evaluations: int = 0
) -> Iterator[Any]:
    """Yield f as the toolbox's classifier, for a while: a copy of ``net.module`` on the net's device.

    Meanwhile NumPy's global generator, from which the toolbox draws, starts from ``seed``.

    Args:
        net: the net; it is left as it is.
        pixels: (low, high) that perturbed pixels are clipped to, or None.
        seed: of all random numbers.
        what: the attack, to say how far it is.
        evaluations: of f, one an image, that it will take; 0 where it decides on the way.

    Raises:
        ConfigError: the toolbox is not installed.
    """
    device = next(net.module.parameters()).device
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with _seeded_numpy(seed), current, Progress(what) as progress:
        yield _classifier()(
            model=_Counted(_copy(net.module), evaluations, progress),
            loss=nn.CrossEntropyLoss(),
            input_shape=net.input_shape,
            nb_classes=net.num_classes,
            clip_values=pixels,
            device_type="gpu" if device.type == "cuda" else "cpu",
        )


def _classifier() -> Any:
    """Return the toolbox's classifier; it is optional and slow to import, so it waits until asked for."""
    try:
        import art.attacks.evasion  # noqa: F401
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ConfigError(
            f"attacks need the Adversarial Robustness Toolbox, which cannot be imported ({error}); "
            "install it with: pip install adversarial-robustness-toolbox"
        ) from error
    return PyTorchClassifier


class _Counted(nn.Module):
    """f, and ``progress`` told of every image that goes through: the toolbox has no other way to say how far it is."""

    def __init__(self, module: nn.Module, evaluations: int, progress: Progress) -> None:
        super().__init__()
        self.module = module
        self._done, self._evaluations, self._progress = 0, evaluations, progress

    def forward(self, images: Tensor) -> Tensor:
        """Return f(images)."""
        logits: Tensor = self.module(images)
        self._done += len(logits)
        self._progress(self._done, self._evaluations)
        return logits


def _copy(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode without parameter gradients: the toolbox sets modes and calls backward."""
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


def within_ball(found: Tensor, images: Tensor, epsilon: float) -> Tensor:
    """Pull what the toolbox's float32 projection left a rounding outside of the ball back into it.

    Args:
        found: (B, *input_shape) float32, the perturbed images.
        images: the images themselves.
        epsilon: l2 radius.

    Returns:
        (B, *input_shape) float32, each within epsilon of its image by float64 measure.
    """
    start, perturbation = images.double(), found.double() - images.double()
    norm = perturbation.flatten(1).norm(dim=1)
    # Rounding to float32 moves each pixel by half an ulp at most, and so the image by this much.
    largest = torch.maximum(start.abs(), found.double().abs()).flatten(1).amax(dim=1)
    rounding = math.sqrt(images[0].numel()) * torch.finfo(torch.float32).eps * largest
    allowed = (epsilon - rounding).clamp_min(0.0)
    scale = torch.where(norm > epsilon, allowed / norm, 1.0)
    pulled = (start + perturbation * scale.reshape(-1, *(1,) * (images.dim() - 1))).to(images.dtype)
    return torch.where((norm > epsilon).reshape(-1, *(1,) * (images.dim() - 1)), pulled, found)


def check_arguments(net: GloRoNet, images: Tensor, labels: Tensor, epsilon: float, **counts: int) -> None:
    """Refuse what no attack can work with.

    Args:
        net: the net to attack.
        images: (B, *input_shape) float32.
        labels: (B,) int64 in [0, m).
        epsilon: l2 radius.
        counts: numbers of steps and the like, by name.

    Raises:
        ConfigError: epsilon is not a number > 0, or a count is below 1.
        DataError: images or labels of another shape or type.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon is {epsilon:g}; the l2 radius to attack at must be a number greater than 0")
    for name, value in counts.items():
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
