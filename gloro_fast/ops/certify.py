"""Signing certificates: float64, every rounding directed so that it cannot certify too much."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.registration import register
from gloro_fast.rounding import down, positive_up, up

MOST_CLASSES_ON_GPU = 4096
"""A program of the kernel for GPUs holds a whole row."""


def certify_logits(
    logits: Tensor, differences: Tensor, lipschitz: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sign a batch of logits; see :func:`certify_logits_reference`, which it agrees with bit for bit.

    Runs compiled on the CPU, in one pass over the logits, and in Triton on the GPU, one launch; elsewhere as the
    reference. Nothing has a gradient. In a graph it is one op, of whose arithmetic no compiler makes another.
    """
    if _runs_compiled(logits, differences):
        if logits.itemsize < 4:
            logits = logits.float()
        if torch.is_grad_enabled():
            logits, differences = logits.detach(), differences.detach()
        prediction, radius, bottom = torch.ops.gloro_fast.certify.default(logits, differences, lipschitz, epsilon)
        return prediction, radius, bottom
    if torch.compiler.is_compiling():
        prediction, radius, bottom = _in_a_graph(logits.detach(), differences.detach(), lipschitz, epsilon)
        return prediction, radius, bottom
    return certify_logits_reference(logits, differences, lipschitz, epsilon)


def _runs_compiled(logits: Tensor, differences: Tensor) -> bool:
    if logits.is_cpu and differences.is_cpu:
        extension.warn_if_missing()
        return extension.available()
    return logits.is_cuda and differences.is_cuda and runs_on_gpu(logits)


def runs_on_gpu(logits: Tensor) -> bool:
    """Return whether a kernel signs logits that are on a GPU."""
    if torch._C._are_functorch_transforms_active():
        return False
    return 2 <= logits.shape[1] <= MOST_CLASSES_ON_GPU and dispatch.runs("verdict")


@torch.no_grad()
def certify_logits_reference(
    logits: Tensor, differences: Tensor, lipschitz: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compose :func:`certified_radius` and :func:`bottom_logit`, in plain PyTorch.

    Args:
        logits: (B, m) of a floating dtype; half types are signed as the float32 numbers that they are.
        differences: (m, m) float64, upper bounds on ||w_i - w_j||_2.
        lipschitz: K >= 0.
        epsilon: l2 radius, >= 0.

    Returns:
        prediction: (B,) int64, the first index of the largest logit.
        radius: (B,) float64.
        bottom: (B,) of the logits' dtype, at least float32; below the largest logit exactly where
            ``radius > epsilon``.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    prediction, radius = certified_radius(logits, differences, lipschitz)
    return prediction, radius, bottom_logit(logits, prediction, radius, differences, lipschitz, epsilon)


def certified_radius(logits: Tensor, differences: Tensor, lipschitz: float) -> tuple[Tensor, Tensor]:
    """Return (prediction, radius): radius <= the real min over i != j of (f_j - f_i) / (K ||w_j - w_i||).

    That holds for logits f taken as the real numbers they are, if ``lipschitz`` and ``differences`` are upper
    bounds (Leino et al. 2021, Theorem 1 and Appendix A.2). Margins and quotients are rounded down, products of
    bounds up. A tie at the top, a non-finite logit or difference, and a K that is not finite give radius 0; a
    constant K_ij = 0 below a strictly larger logit puts no limit.

    Args:
        logits: (B, m) of any floating dtype.
        differences: (m, m) float64, upper bounds on ||w_i - w_j||_2.
        lipschitz: K >= 0.

    Returns:
        prediction: (B,) int64, the first index of the largest logit.
        radius: (B,) float64.
    """
    values = logits.double()
    prediction = values.argmax(dim=1)
    quotient, usable = pair_radii(values, prediction, margin_constants(differences, lipschitz))
    radius = quotient.scatter(1, prediction[:, None], torch.inf).amin(dim=1)
    return prediction, torch.where(usable, radius, 0.0)


def pair_radii(values: Tensor, leader: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each f_i stays below f_j, for j = ``leader``, and whether that is known.

    Args:
        values: (B, m) float64, the logits.
        leader: (B,) int64.
        constants: (m, m) float64, K_ij.

    Returns:
        radii: (B, m) float64 <= the real (f_j - f_i) / K_ij, 0 where f_i >= f_j.
        usable: (B,) bool, all logits and the leader's constants are finite.
    """
    gap = values.gather(1, leader[:, None]) - values
    gap = torch.where(gap > 0, down(gap), 0.0)
    pair_bounds = constants[leader]
    limit = torch.where(pair_bounds == 0, torch.inf, down(gap / pair_bounds).clamp_min(0.0))
    usable = values.isfinite().all(dim=1) & pair_bounds.isfinite().all(dim=1)
    return torch.where(gap > 0, limit, 0.0), usable


def bottom_logit(
    logits: Tensor, prediction: Tensor, radius: Tensor, differences: Tensor, lipschitz: float, epsilon: float
) -> Tensor:
    """Return f_bottom = max over i != j of (f_i + epsilon K_ij), rounded up, so that argmax signs like the radius.

    f_bottom < f_j exactly where ``radius > epsilon``, in the returned dtype; elsewhere f_bottom > f_j, so that an
    argmax over the m + 1 logits, which takes the first of equals, never picks f_j on a tie.

    Args:
        logits: (B, m), float32 or float64.
        prediction: (B,), from ``certified_radius``.
        radius: (B,), from ``certified_radius``.
        differences: (m, m) float64, upper bounds on ||w_i - w_j||_2.
        lipschitz: K >= 0.
        epsilon: l2 radius, >= 0.

    Returns:
        (B,) of the logits' dtype, +inf where a logit or bound is not finite.
    """
    values = logits.double()
    rise = margin_constants(differences, lipschitz)[prediction] * epsilon
    candidates = up(values + torch.where(rise > 0, up(rise), rise))
    own = torch.zeros_like(candidates, dtype=torch.bool).scatter_(1, prediction[:, None], True)
    bottom = candidates.masked_fill(own, -torch.inf).amax(dim=1).to(logits.dtype)
    top = logits.gather(1, prediction[:, None]).squeeze(1)
    below = torch.nextafter(top, torch.full_like(top, -torch.inf))
    above = torch.nextafter(top, torch.full_like(top, torch.inf))
    finite = values.isfinite().all(dim=1) & bottom.isfinite()
    bottom = torch.where(radius > epsilon, torch.minimum(bottom, below), torch.maximum(bottom, above))
    return torch.where(finite | (radius > epsilon), bottom, torch.inf)


def margin_constants(differences: Tensor, lipschitz: float) -> Tensor:
    """Return K_ij = K D_ij rounded up, exactly 0 only where a factor is, NaN or inf where one is not finite.

    They are >= the Lipschitz constants of f_i - f_j in real arithmetic as far as both arguments are upper bounds.

    Args:
        differences: (m, m) float64, upper bounds on ||w_i - w_j||_2.
        lipschitz: K >= 0.

    Returns:
        (m, m) float64.
    """
    product = differences * lipschitz
    return torch.where((differences > 0) & (lipschitz > 0), positive_up(product), product)


# What follows tells torch of the compiled op, and of the reference as an op. A compiler that traced it could contract
# products and sums, and sign logits that it computes once more, to other bits, where it returns them.


def _fake_certify(
    logits: Tensor, differences: Tensor, lipschitz: float, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    prediction = logits.new_empty([rows], dtype=torch.int64)
    bottom = logits.new_empty([rows], dtype=torch.promote_types(logits.dtype, torch.float32))
    return prediction, logits.new_empty([rows], dtype=torch.float64), bottom


@torch.library.custom_op("gloro_fast::certify_reference", mutates_args=())
def _in_a_graph(logits: Tensor, differences: Tensor, lipschitz: float, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    return certify_logits_reference(logits, differences, lipschitz, epsilon)


_in_a_graph.register_fake(_fake_certify)
register("certify", _fake_certify, "verdict")
