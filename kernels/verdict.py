"""Certificates on the GPU: what ``gloro_fast.ops.verdict`` and ``gloro_fast.ops.certify`` define, as a Triton kernel.

Every operation of ``csrc/cpu/certify.cpp`` is there, in float64 and in its order, so that the bits are the CPU's; the
kernel is compiled with ``enable_fp_fusion=False``, which keeps products and sums apart. A program signs one image: 500
are more than enough for a card, and its row of D is read from cache.
"""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloro_fast.ops.certify import MOST_CLASSES_ON_GPU
from gloro_fast.ops.image_codes import NOT_FINITE
from gloro_fast.ops.verdict import CHANGED, LOGITS_NOT_FINITE

from .float32_math import INFINITY, next_after
from .float64_math import next_down, next_up
from .launch_table import on_device_of
from .margin_rows import first_largest

_CLASSES_OF_A_WARP = 512
_TENSORS = 8  # whose hashes are compared at once
_SMALLEST = tl.constexpr(2.2250738585072014e-308)
_NOT_FINITE = tl.constexpr(NOT_FINITE)
_LOGITS_NOT_FINITE = tl.constexpr(LOGITS_NOT_FINITE)
_CHANGED = tl.constexpr(CHANGED)


@triton.jit
def _any(condition):
    return tl.max(condition.to(tl.int32), 1) > 0


@triton.jit
def _is_finite(x):
    return tl.abs(x) < INFINITY


@triton.jit
def _weights_differ(shares, signed, tensors, SHARES: tl.constexpr, TENSORS: tl.constexpr):
    """Add up the shares of every hash and compare it with the signed one: (1,), whether one differs."""
    differs = tl.zeros((TENSORS,), tl.int32)
    for first in range(0, tensors, TENSORS):
        tensor = first + tl.arange(0, TENSORS)
        inside = tensor < tensors
        place = tensor[:, None] * SHARES + tl.arange(0, SHARES)[None, :]
        present = tl.sum(tl.load(shares + place, inside[:, None], 0), 1)
        differs |= (present != tl.load(signed + tensor, inside, 0)).to(tl.int32)
    return tl.max(differs[None, :], 1) > 0


@triton.jit(do_not_specialize=["lipschitz", "epsilon"])
def verdict_rows(
    logits, differences, lipschitz, epsilon, images, shares, signed,
    prediction, radius, bottom, certified, codes, classes, tensors,
    COLUMNS: tl.constexpr, SHARES: tl.constexpr, TENSORS: tl.constexpr,
):  # fmt: skip
    """Sign one row. The two numbers are the bits of float64: as such Triton would pass them in float32."""
    lipschitz = (tl.zeros((1,), tl.int64) + lipschitz).to(tl.float64, bitcast=True)[:, None]
    epsilon = (tl.zeros((1,), tl.int64) + epsilon).to(tl.float64, bitcast=True)
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = column < classes
    values = tl.load(logits + row[:, None] * classes + column, inside, 0).to(tl.float64)
    top, j = first_largest(values, column, inside)
    other = inside & (column != j[:, None])
    distance = tl.load(differences + j[:, None].to(tl.int64) * classes + column, inside, 0)

    # K_ij = K D_ij rounded up: exactly 0 only where a factor is, not finite where one is not.
    product = distance * lipschitz
    above = next_up(product)
    above = tl.where(above < _SMALLEST, _SMALLEST, above)
    bound = tl.where((distance > 0) & (lipschitz > 0), above, product)

    gap = top[:, None] - values
    gap = tl.where(gap > 0, next_down(gap), 0.0)
    limits = other & ((gap > 0) & (bound == 0) == 0)
    quotient = tl.where(gap > 0, gap / bound, 0.0)
    least = tl.min(tl.where(limits, quotient, INFINITY), 1)
    below = tl.where(_any(limits), tl.where(least > 0, next_down(least), 0.0), INFINITY)
    finite = _any(inside & (_is_finite(values) == 0)) == 0
    bounded = _any(inside & (_is_finite(bound) == 0)) == 0
    signed_radius = tl.where(finite & bounded, below, 0.0)

    rise = bound * epsilon[:, None]
    candidate = values + tl.where(rise > 0, next_up(rise), rise)
    undefined = _any(other & (candidate != candidate))
    highest = next_up(tl.max(tl.where(other, candidate, -INFINITY), 1))
    rounded = highest.to(bottom.dtype.element_ty)
    signs = signed_radius > epsilon
    # Strictly below the top where certified and strictly above it elsewhere.
    if bottom.dtype.element_ty == tl.float64:
        limit = tl.where(signs, next_down(top), next_up(top))
    else:
        limit = next_after(top.to(tl.float32), signs == 0)
    apart = tl.where(tl.where(signs, limit < rounded, limit > rounded), limit, rounded)
    low = tl.where(signs | (finite & _is_finite(rounded) & (undefined == 0)), apart, INFINITY)

    code = tl.where(finite, 0, _LOGITS_NOT_FINITE)
    if images is not None:
        code |= tl.load(images + row).to(tl.int32)
    if shares is not None:
        code |= tl.where(_weights_differ(shares, signed, tensors, SHARES, TENSORS), _CHANGED, 0)
    doubtful = (code & (_CHANGED | _NOT_FINITE)) != 0
    tl.store(prediction + row, j.to(tl.int64))
    tl.store(radius + row, tl.where(doubtful, 0.0, signed_radius))
    tl.store(bottom + row, tl.where(doubtful, INFINITY, low))
    tl.store(certified + row, signs & (doubtful == 0))
    tl.store(codes + row, code.to(tl.uint8))


def verdict(
    logits: Tensor,
    differences: Tensor,
    lipschitz: float,
    epsilon: float,
    images: Tensor | None,
    shares: Tensor | None,
    signed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return prediction, radius, bottom, certified, codes: the CUDA implementation of ``gloro_fast::verdict``."""
    if logits.dim() != 2 or not 2 <= logits.shape[1] <= MOST_CLASSES_ON_GPU or not logits.is_floating_point():
        raise RuntimeError(
            f"verdict: logits must be (batch, classes) of floats with 2 to {MOST_CLASSES_ON_GPU} classes, got"
            f" {logits.dtype} {tuple(logits.shape)}"
        )
    rows, classes = logits.shape
    if differences.shape != (classes, classes) or differences.dtype != torch.float64:
        raise RuntimeError(
            f"verdict: differences must be {(classes, classes)} of float64, got {differences.dtype}"
            f" {tuple(differences.shape)}"
        )
    if images is not None and (images.shape != (rows,) or images.dtype != torch.uint8):
        raise RuntimeError(f"verdict: images must be {(rows,)} of uint8, got {images.dtype} {tuple(images.shape)}")
    tensors = 0
    if shares is not None:
        tensors = len(shares)
        if signed is None or signed.shape != (tensors,) or not shares.dtype == signed.dtype == torch.int64:
            raise RuntimeError("verdict: shares (n, any) and signed (n,) must be int64")
        shares, signed = shares.contiguous(), signed.contiguous()
    if any(t is not None and t.device != logits.device for t in (differences, images, shares, signed)):
        raise RuntimeError("verdict: all tensors must be beside the logits")
    bottom_type = torch.promote_types(logits.dtype, torch.float32)
    prediction = logits.new_empty(rows, dtype=torch.int64)
    radius = logits.new_empty(rows, dtype=torch.float64)
    bottom = logits.new_empty(rows, dtype=bottom_type)
    certified = logits.new_empty(rows, dtype=torch.bool)
    codes = logits.new_empty(rows, dtype=torch.uint8)
    columns = triton.next_power_of_2(classes)
    if rows:
        with on_device_of(logits):
            verdict_rows[(rows,)](
                logits.contiguous(), differences.contiguous(), _bits(lipschitz), _bits(epsilon), images, shares,
                signed, prediction, radius, bottom, certified, codes, classes, tensors,
                COLUMNS=columns, SHARES=1 if shares is None else shares.shape[1], TENSORS=_TENSORS,
                num_warps=max(1, columns // _CLASSES_OF_A_WARP), enable_fp_fusion=False,
            )  # fmt: skip
    return prediction, radius, bottom, certified, codes


def certify(logits: Tensor, differences: Tensor, lipschitz: float, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return prediction, radius, bottom: the CUDA implementation of the op ``gloro_fast::certify``."""
    return verdict(logits, differences, lipschitz, epsilon, None, None, None)[:3]


def _bits(number: float) -> int:
    bits: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return bits
