"""Lower bounds on the Lipschitz constants of margins, by optimization (Leino et al. 2021, Appendix F)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.ops.certify import margin_constants
from gloro_fast.progress import Progress

GLOBAL_STEPS, LOCAL_STEPS, PAIRS = 7_500, 5_000, 100

# Keras' Adam, which the paper used as it comes.
_LEARNING_RATE, _EPSILON = 1e-3, 1e-7
# A pair that grew by less than this share in so many steps has arrived: at that pace the rest would add a third of
# a percent.
_PATIENCE, _GROWTH = 250, 1e-4
# Closer than this, float32 does not tell the logits of two points apart.
_SHORTEST = 1e-3
# Of the size of what is added up: eight thousand roundings.
_ROUNDING = 2.0**-40

_Project = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LowerBounds:
    """What an optimization found, for P pairs of points.

    Attributes:
        pairs: (2, P, *input_shape), where each pair has its largest slope.
        classes: (P,) int64, j: the class that f predicts at the first point, or at the centre of the ball.
        slopes: (P,) float64, max over i of |Delta (f_j - f_i)| / ||Delta x||: each <= the Lipschitz constant of that
            margin, rounding allowed for.
        margins: (m, m) float64, the same for every margin f_a - f_b, the largest over the pairs.
        steps: gradient steps until nothing moved any more.
    """

    pairs: Tensor
    classes: Tensor
    slopes: Tensor
    margins: Tensor
    steps: int


def global_lower_bounds(
    net: GloRoNet, images: Tensor, *, pairs: int = PAIRS, steps: int = GLOBAL_STEPS, seed: int = 0
) -> LowerBounds:
    """Look for the steepest margin anywhere: the largest slope is the lower bound of Figure 4c.

    max over x1, x2, i of |f_j(x1) - f_i(x1) - (f_j(x2) - f_i(x2))| / ||x1 - x2|| with j = F(x1), by Adam from random
    pairs of ``images``, all in one batch. Points may leave [0, 1], as the bound holds there too.

    Args:
        net: the net, in float32; only f counts.
        images: (N, *input_shape) float32, N >= 2, on any device.
        pairs: initial pairs.
        steps: gradient steps, at most.
        seed: of the choice of images.

    Raises:
        ConfigError: pairs or steps are below 1.
        DataError: the images do not fit the net or are fewer than 2.
    """
    _check(net, images, pairs=pairs, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    # The second is never the first: 1 to N - 1 places on.
    first = torch.randint(len(images), (pairs,), generator=generator)
    second = (first + torch.randint(1, len(images), (pairs,), generator=generator)) % len(images)
    start = torch.stack([images[first], images[second]])
    with Progress("looking for the steepest margin anywhere") as progress:
        return _maximize(net, start, steps, progress, classes=None, project=lambda points, kept: points)


def local_lower_bounds(
    net: GloRoNet, images: Tensor, epsilon: float, *, points: int = PAIRS, steps: int = LOCAL_STEPS, seed: int = 0
) -> LowerBounds:
    """Look for the steepest margin in balls around random images: the mean slope is the local bound of Figure 4c.

    As :func:`global_lower_bounds`, with j = F(x0) and both points projected to the ball of radius ``epsilon`` around
    x0 after each step; they start from random images as well.

    Args:
        net: the net, in float32; only f counts.
        images: (N, *input_shape) float32, N >= 2, on any device.
        epsilon: l2 radius > 0.
        points: centres x0, chosen at random.
        steps: gradient steps, at most.
        seed: of the choice of images.

    Raises:
        ConfigError: epsilon is not a number > 0, points or steps are below 1.
        DataError: the images do not fit the net or are fewer than 2.
    """
    _check(net, images, points=points, steps=steps)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"epsilon is {epsilon:g}; the l2 radius of the balls must be a number greater than 0")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (3, points), generator=generator)
    device = next(net.module.parameters()).device
    centres = images[chosen[0]].to(device)
    with torch.no_grad():
        classes = _frozen_copy(net.module)(centres).argmax(dim=1)
    # Two that start from the same image would stay where they are.
    chosen[2] = torch.where(chosen[1] == chosen[2], (chosen[2] + 1) % len(images), chosen[2])
    start = torch.stack([images[chosen[1]], images[chosen[2]]])

    def project(pairs: Tensor, kept: Tensor) -> Tensor:
        offset = pairs - centres[kept]
        norm = offset.flatten(2).norm(dim=2).reshape(2, -1, *(1,) * (images.dim() - 1))
        inside: Tensor = centres[kept] + offset * (epsilon / norm.clamp_min(epsilon))
        return inside

    with Progress("looking for the steepest margins nearby") as progress:
        return _maximize(net, start, steps, progress, classes, project)


def margin_bounds(net: GloRoNet) -> Tensor:
    """Return K_ij, (m, m) float64 >= the Lipschitz constants of f_i - f_j, as far as ``net.bound`` is a bound."""
    return margin_constants(net.difference_bounds, net.lipschitz)


def margin_slopes(module: nn.Module, scale: float, pair: Tensor) -> Tensor:
    """Return how steep each margin f_a - f_b is between two points: float64 numbers <= its Lipschitz constant.

    f is evaluated in float64, and some thousand times what rounding then amounts to is subtracted.

    Args:
        module: f in float64.
        scale: what only scales that allowance: the largest of :func:`margin_bounds`, by any method.
        pair: (2, *input_shape) of a floating dtype.

    Returns:
        (m, m) float64; below 0 where rounding is all there is, 0 for two equal points.
    """
    pair = pair.double()
    with torch.no_grad():
        logits = module(pair)
    difference, distance = logits[0] - logits[1], (pair[0] - pair[1]).norm()
    rounding = _ROUNDING * (logits.abs().max() + scale * pair.flatten(1).norm(dim=1).max())
    slopes: Tensor = ((difference[:, None] - difference).abs() - rounding) / distance
    return slopes if bool(distance > 0) else torch.zeros_like(slopes)


def _maximize(
    net: GloRoNet, start: Tensor, steps: int, progress: Progress, classes: Tensor | None, project: _Project
) -> LowerBounds:
    """Climb the slope of every pair, and keep the steepest place that each came by.

    Args:
        net: the net.
        start: (2, P, *input_shape).
        steps: at most so many.
        progress: is told of each step.
        classes: (P,) j of each pair; None for what is predicted at the first point.
        project: gives where points (2, Q, *input_shape) of the pairs with indices (Q,) may be.
    """
    # Convolutions are a quarter faster so.
    module = _frozen_copy(net.module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(module.parameters()).device
    start = start.to(device)
    # The pairs that still move, by their place among all.
    moving = torch.arange(start.shape[1], device=device)
    points = project(start, moving).clone().requires_grad_()
    optimizer = _adam(points)
    best = torch.full((len(moving),), -torch.inf, device=device)
    best_points = points.detach().clone()
    before, step = best.clone(), 0
    for step in range(1, steps + 1):
        slope = _slope(module, points, None if classes is None else classes[moving])
        _keep_better(best, best_points, moving, slope.detach(), points.detach())
        optimizer.zero_grad()
        (-slope.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            points.copy_(project(points, moving))
        progress(step, steps, f"step {step} of at most {steps}")
        if step % _PATIENCE == 0:
            grown = best[moving] > before[moving] * (1 + _GROWTH)
            before = best.clone()
            if not bool(grown.any()):
                break
            if not bool(grown.all()):
                points, optimizer = _only(points, optimizer, grown)
                moving = moving[grown]
    with torch.no_grad():
        slope = _slope(module, points, None if classes is None else classes[moving])
        _keep_better(best, best_points, moving, slope, points.detach())
        if classes is None:
            classes = module(best_points[0]).argmax(dim=1)
    margins = torch.full((net.num_classes, net.num_classes), -torch.inf, dtype=torch.float64, device=device)
    slopes, exact, scale = [], _frozen_copy(net.module).double(), float(margin_bounds(net).max())
    for j, pair in zip(classes.tolist(), best_points.unbind(dim=1), strict=True):
        found = margin_slopes(exact, scale, pair)
        margins = torch.maximum(margins, found)
        slopes.append(found[j].max())
    return LowerBounds(best_points, classes, torch.stack(slopes), margins, step)


def _slope(module: nn.Module, points: Tensor, classes: Tensor | None) -> Tensor:
    """Return the largest slope of a margin f_j - f_i between the points (2, P, ...) of each pair, (P,)."""
    first, second = module(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    j = first.argmax(dim=1) if classes is None else classes
    difference = first - second
    rise = (difference.gather(1, j[:, None]) - difference).abs().amax(dim=1)
    distance = (points[0] - points[1]).flatten(1).norm(dim=1)
    slope: Tensor = rise / distance.clamp_min(_SHORTEST)
    return slope


def _keep_better(best: Tensor, best_points: Tensor, moving: Tensor, slope: Tensor, points: Tensor) -> None:
    better = slope > best[moving]
    best[moving] = torch.where(better, slope, best[moving])
    best_points[:, moving[better]] = points[:, better]


def _adam(points: Tensor) -> torch.optim.Adam:
    return torch.optim.Adam([points], lr=_LEARNING_RATE, betas=(0.9, 0.999), eps=_EPSILON)


def _only(points: Tensor, optimizer: torch.optim.Adam, kept: Tensor) -> tuple[Tensor, torch.optim.Adam]:
    """Leave out the pairs that have arrived, with their moments."""
    fewer = points.detach()[:, kept].clone().requires_grad_()
    state = optimizer.state[points]
    moments = {name: value[:, kept] if value.shape == points.shape else value for name, value in state.items()}
    result = _adam(fewer)
    result.state[fewer] = moments
    return fewer, result


def _frozen_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


def _check(net: GloRoNet, images: Tensor, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; the optimization needs at least 1")
    if images.dtype != torch.float32:
        raise DataError(f"images are {images.dtype}; the optimization runs in float32, so convert images and net to it")
    if tuple(images.shape[1:]) != net.input_shape or len(images) < 2:
        raise DataError(f"images have shape {tuple(images.shape)}; give at least two of the net's {net.input_shape}")
