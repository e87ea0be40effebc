"""Hashes of many tensors on the GPU in one launch: what ``gloro_fast.ops.fingerprint`` defines, as a Triton kernel.

Where the tensors lie stands in a table on the device, which is made, and waited for, only where an address, shape or
stride was never seen before. Tensors of any strides are read where they are.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.ops import capturing
from gloro_fast.ops.fingerprint_op import SHARES

from .launch_table import on_device_of

_BLOCK = 1024
_WARPS = 8  # 4 words a thread at once, 8 kB in flight a program
_SIZES = tl.constexpr(4)  # where sizes and strides begin in a row of the table

# Those of gloro_fast.ops.fingerprint_op, unsigned.
_STEP = tl.constexpr(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = tl.constexpr(0x94D049BB133111EB)

Place = tuple[int, torch.Size, tuple[int, ...], torch.dtype]
_kept: dict[tuple[tuple[Place, ...], torch.device], Tensor] = {}  # tables that captured graphs read


@triton.jit
def _words(row, address, count, place, TYPE: tl.constexpr, BYTES: tl.constexpr):
    """Load the words of 8 bytes at ``place``, of units of ``BYTES`` in logical order; zeros beyond the last unit."""
    dimensions = tl.load(row + 3).to(tl.int32)
    word = tl.zeros_like(place).to(tl.uint64)
    for part in tl.static_range(8 // BYTES):
        index = place * (8 // BYTES) + part
        inside = index < count
        rest = index
        offset = tl.zeros_like(place)
        for d in range(1, dimensions):  # the last dimension first
            size = tl.load(row + _SIZES + 2 * d - 2)
            offset += rest % size * tl.load(row + _SIZES + 2 * d - 1)
            rest = rest // size
        offset += rest * tl.load(row + _SIZES + 2 * dimensions - 1)
        units = (address + offset * BYTES).to(tl.pointer_type(TYPE))
        word |= tl.load(units, inside, 0).to(tl.uint64) << (8 * BYTES * part)
    return word


@triton.jit
def hash_tensors(table, width, shares, SHARES: tl.constexpr, BLOCK: tl.constexpr):
    """Add up one share of the words of one tensor, each mixed with its place."""
    row = table + tl.program_id(1) * width
    address = tl.load(row)
    count = tl.load(row + 1)
    unit = tl.load(row + 2)
    words = (count * unit + 7) // 8
    total = tl.zeros((BLOCK,), tl.uint64)
    for first in range(tl.program_id(0).to(tl.int64) * BLOCK, words, SHARES * BLOCK):
        place = first + tl.arange(0, BLOCK)
        if unit == 8:
            word = _words(row, address, count, place, tl.uint64, 8)
        elif unit == 4:
            word = _words(row, address, count, place, tl.uint32, 4)
        elif unit == 2:
            word = _words(row, address, count, place, tl.uint16, 2)
        else:
            word = _words(row, address, count, place, tl.uint8, 1)
        mixed = word + (place + 1).to(tl.uint64) * _STEP
        mixed = (mixed ^ (mixed >> 32)) * _MULTIPLIER_1
        mixed = (mixed ^ (mixed >> 29)) * _MULTIPLIER_2
        total += tl.where(place < words, mixed ^ (mixed >> 32), 0)
    tl.store(shares + tl.program_id(1) * SHARES + tl.program_id(0), tl.sum(total, 0).to(tl.int64))


def fingerprint_shares(tensors: list[Tensor]) -> Tensor:
    """Return shares of the hashes: the CUDA implementation of the op ``gloro_fast::fingerprint_shares``.

    Raises:
        ConfigError: a CUDA graph is being captured, and these tensors were never hashed before.
    """
    device = tensors[0].device
    if any(tensor.device != device for tensor in tensors):
        raise RuntimeError(f"fingerprint: tensors are on {', '.join(sorted({str(t.device) for t in tensors}))}")
    places = tuple((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
    table = _table(places, device)
    if capturing.is_capturing(device):
        _kept[places, device] = table
    shares = torch.empty(len(tensors), SHARES, dtype=torch.int64, device=device)
    with on_device_of(shares):
        hash_tensors[(SHARES, len(tensors))](
            table, table.shape[1], shares, SHARES=SHARES, BLOCK=_BLOCK, num_warps=_WARPS
        )
    return shares


@lru_cache(maxsize=64)
def _table(places: tuple[Place, ...], device: torch.device) -> Tensor:
    """Make a row a tensor: address, number of units, bytes of one, dimensions, then sizes and strides, last first."""
    if capturing.is_capturing(device):
        raise ConfigError(
            "a CUDA graph is captured, which cannot hash weights at addresses that are new: evaluate or certify once "
            "before capturing"
        )
    rows = [_row(*place) for place in places]
    width = max(map(len, rows))
    with torch.inference_mode(False):
        return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64, device=device)


def _row(address: int, shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype) -> list[int]:
    unit = dtype.itemsize
    dimensions = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    if dtype.is_complex:
        unit //= 2
        dimensions = [(size, 2 * stride) for size, stride in dimensions] + [(2, 1)]
    merged: list[tuple[int, int]] = []
    for size, stride in reversed(dimensions):
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * size, merged[-1][1])
        else:
            merged.append((size, stride))
    merged = merged or [(1, 1)]
    count = math.prod(size for size, _ in merged)
    if len(merged) == 1 and merged[0][1] == 1:  # one run of memory, in units as wide as it allows
        bytes_of_all, unit = count * unit, math.gcd(8, address, count * unit)
        count = bytes_of_all // unit
        merged = [(count, 1)]
    return [address, count, unit, len(merged), *(number for pair in merged for number in pair)]
