"""Certificates of a batch with everything that may stand against them, found without waiting for its device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.certify import certify_logits_reference, runs_on_gpu
from gloro_fast.ops.image_codes import NOT_FINITE

LOGITS_NOT_FINITE = 2
CHANGED = 8
"""Beside the codes of images: what a row's code may hold."""


class Verdict(NamedTuple):
    """What is signed of each image of a batch of B, and why not.

    Attributes:
        prediction: (B,) int64, the first index of the largest logit.
        radius: (B,) float64; 0 where weights have changed or the image is not finite.
        bottom: (B,) of the logits' dtype, at least float32; infinite there.
        certified: (B,) bool, ``radius > epsilon``.
        codes: (B,) uint8: the image's code, ``LOGITS_NOT_FINITE`` and ``CHANGED``, added up. Those of all images say
            that weights have changed if one does.
    """

    prediction: Tensor
    radius: Tensor
    bottom: Tensor
    certified: Tensor
    codes: Tensor


@torch.no_grad()
def verdict_reference(
    logits: Tensor,
    differences: Tensor,
    lipschitz: float,
    epsilon: float,
    images: Tensor | None = None,
    shares: Tensor | None = None,
    signed: Tensor | None = None,
) -> Verdict:
    """Sign logits, in plain PyTorch.

    Args:
        logits: (B, m) of a floating dtype.
        differences: (m, m) float64, upper bounds on ||w_i - w_j||_2.
        lipschitz: K >= 0.
        epsilon: l2 radius, >= 0.
        images: (B,) uint8 from :func:`gloro_fast.ops.image_codes.image_codes`, or None.
        shares: (n, any) int64 from :func:`gloro_fast.ops.fingerprint_op.fingerprint_shares`, or None.
        signed: (n,) int64, the hashes that the bound holds for; with ``shares``.
    """
    prediction, radius, bottom = certify_logits_reference(logits, differences, lipschitz, epsilon)
    codes = ~logits.isfinite().all(dim=1) * LOGITS_NOT_FINITE
    if images is not None:
        codes = codes | images
    if shares is not None:
        assert signed is not None
        codes = codes | (shares.sum(dim=1) != signed).any() * CHANGED
    doubtful = (codes & (CHANGED | NOT_FINITE)) != 0
    radius = torch.where(doubtful, 0.0, radius)
    bottom = torch.where(doubtful, torch.inf, bottom)
    return Verdict(prediction, radius, bottom, radius > epsilon, codes.to(torch.uint8))


def verdict(
    logits: Tensor,
    differences: Tensor,
    lipschitz: float,
    epsilon: float,
    images: Tensor | None = None,
    shares: Tensor | None = None,
    signed: Tensor | None = None,
) -> Verdict:
    """Sign logits: see :func:`verdict_reference`, whose bits it has; one Triton launch on the GPU."""
    arguments = (logits.detach(), differences.detach(), lipschitz, epsilon, images, shares, signed)
    if logits.is_cuda and runs_on_gpu(logits):
        return Verdict(*torch.ops.gloro_fast.verdict(*arguments))
    return verdict_reference(*arguments)


def _fake_verdict(
    logits: Tensor,
    differences: Tensor,
    lipschitz: float,
    epsilon: float,
    images: Tensor | None,
    shares: Tensor | None,
    signed: Tensor | None,
) -> tuple[Tensor, ...]:
    types = (torch.int64, torch.float64, torch.promote_types(logits.dtype, torch.float32), torch.bool, torch.uint8)
    return tuple(logits.new_empty([logits.shape[0]], dtype=dtype) for dtype in types)


if extension.available():
    torch.library.define(
        "gloro_fast::verdict",
        "(Tensor logits, Tensor differences, float lipschitz, float epsilon, Tensor? images, Tensor? shares, "
        "Tensor? signed) -> (Tensor prediction, Tensor radius, Tensor bottom, Tensor certified, Tensor codes)",
    )
    torch.library.register_fake("gloro_fast::verdict", _fake_verdict)
    dispatch.implement("verdict", "verdict")
