"""Signing certificates: float64, every rounding directed so that it cannot certify too much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast import _extension, _gpu
from gloro_fast.bounds.rounding import down, positive_up, up
from gloro_fast.errors import DataError
from gloro_fast.pixels import check_floats, check_shape

MOST_CLASSES_ON_GPU = 4096
"""A program of the kernel for GPUs holds a whole row."""


@dataclass(frozen=True)
class Certificate:
    """What is certified of each image of a batch of B, against every l2 perturbation of norm <= epsilon.

    Attributes:
        prediction: (B,) int64, argmax of f.
        certified: (B,) bool, ``radius > epsilon``, strictly.
        radius: (B,) float64, in units of the input; 0 for ties and non-finite logits.
        epsilon: the l2 radius asked for.
        lipschitz: K of everything before the head, or of all layers without one.
        method: the method that found K, with "(estimate)" where it is none but that.
        logits: (B, m) f as computed, at least float32.
        executed: whether the radius covers the rounding of the net's own forward pass.
        real_radius: (B,) float64, the radius for real arithmetic on ``logits``; ``radius`` itself if not executed,
            else never below it.
    """

    prediction: Tensor
    certified: Tensor
    radius: Tensor
    epsilon: float
    lipschitz: float
    method: str
    logits: Tensor
    executed: bool
    real_radius: Tensor


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
        _extension.warn_if_missing()
        return _extension.available()
    return logits.is_cuda and differences.is_cuda and runs_on_gpu(logits)


def runs_on_gpu(logits: Tensor) -> bool:
    """Whether a kernel signs logits that are on a GPU."""
    if torch._C._are_functorch_transforms_active():
        return False
    return 2 <= logits.shape[1] <= MOST_CLASSES_ON_GPU and _gpu.runs("verdict")


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
    """Give (prediction, radius): radius <= the real min over i != j of (f_j - f_i) / (K ||w_j - w_i||).

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
    top = values.gather(1, prediction[:, None])
    gap = top - values
    gap = torch.where(gap > 0, down(gap), 0.0)
    pair_bounds = margin_constants(differences, lipschitz)[prediction]
    limit = torch.where(pair_bounds == 0, torch.inf, down(gap / pair_bounds).clamp_min(0.0))
    quotient = torch.where(gap > 0, limit, 0.0)
    own = torch.zeros_like(quotient, dtype=torch.bool).scatter_(1, prediction[:, None], True)
    radius = quotient.masked_fill(own, torch.inf).amin(dim=1)
    usable = values.isfinite().all(dim=1) & pair_bounds.isfinite().all(dim=1)
    return prediction, torch.where(usable, radius, 0.0)


def bottom_logit(
    logits: Tensor, prediction: Tensor, radius: Tensor, differences: Tensor, lipschitz: float, epsilon: float
) -> Tensor:
    """Give f_bottom = max over i != j of (f_i + epsilon K_ij), rounded up, so that argmax signs like the radius.

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


def check_batch(images: Tensor, input_shape: tuple[int, ...], dtype: torch.dtype, autocast: bool = True) -> None:
    """Refuse a batch of another type or shape than the net's; under autocast any floating type will do.

    Args:
        images: the batch.
        input_shape: shape of one image of the net.
        dtype: of the net.
        autocast: whether autocast has a part in what is done with them.

    Raises:
        DataError: names what is wrong.
    """
    if not isinstance(images, Tensor):
        raise DataError(f"images are a {type(images).__name__}; give a tensor")
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}; scale them to [0, 1] with gloro_fast.data.to_float(images)")
    if images.dtype != dtype and not (autocast and torch.is_autocast_enabled(images.device.type)):
        raise DataError(f"images are {images.dtype} but the net is {dtype}; convert one of them")
    check_shape(images, input_shape)


def check_images(images: Tensor, input_shape: tuple[int, ...], dtype: torch.dtype, pixels: bool = True) -> None:
    """Refuse what cannot be certified: another type or shape than the net's, no images, NaN or infinite pixels.

    Args:
        images: the batch.
        input_shape: shape of one image of the net.
        dtype: of the net.
        pixels: look at these as well, and wait for their device.

    Raises:
        DataError: names what is wrong.

    Warns:
        UserWarning: pixels outside [0, 1], which a net may well take.
    """
    check_batch(images, input_shape, dtype, autocast=False)
    if len(images) == 0:
        raise DataError("the batch is empty; give at least one image")
    if pixels:
        check_floats(images, "images")


def margin_constants(differences: Tensor, lipschitz: float) -> Tensor:
    """Give K_ij = K D_ij rounded up, exactly 0 only where a factor is, NaN or inf where one is not finite.

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

if _extension.available():
    torch.library.register_fake("gloro_fast::certify", _fake_certify)
    _gpu.implement("certify", "verdict")
