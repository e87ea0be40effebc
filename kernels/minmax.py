"""MinMax on the GPU: what ``gloro_fast.ops.minmax`` defines, as Triton kernels.

Memory orders and masks are those of csrc/cpu/minmax.h, bit for bit:

    planar       (samples, pairs, 2, length)   a row is one pair of one sample, its bits padded to whole bytes
    interleaved  (pixels, pairs, 2)            one run of pixels * pairs bits

Every element is read once and written once, in accesses of 16 bytes where the sizes allow. Indices are 64 bits
wide. Sums for the bias gradient are taken in float32 in an order that the shape alone decides.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import Launch, place_of, planned
from .minmax_tiles import InterleavedTiles, PlanarTiles

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def _sort_pairs(a, b):
    """Return (swap, low, high); compared in float32, which holds every value of the narrower types."""
    wide_a = a.to(tl.float32)
    wide_b = b.to(tl.float32)
    swap = wide_a > wide_b
    low = tl.where(swap | (wide_b != wide_b), b, a)
    high = tl.where(swap | (wide_a != wide_a), a, b)
    return swap, low, high


@triton.jit
def _add(x, bias):
    """Return x + bias rounded to the type of x."""
    return (x.to(tl.float32) + bias.to(tl.float32)).to(x.dtype)


@triton.jit
def _count(vectors, VECTOR: tl.constexpr):
    """Return vectors * VECTOR, in which Triton sees the factor, and with it how wide it may load."""
    return tl.full((), VECTOR, tl.int64) * vectors


@triton.jit
def _bytes_of_bits(vectors, VECTOR: tl.constexpr):
    """Return the bytes that hold vectors * VECTOR bits."""
    return _count(vectors, VECTOR // 8) if VECTOR % 8 == 0 else tl.cdiv(_count(vectors, VECTOR), 8)


@triton.jit
def planar_forward(
    x, bias, y, mask, rows, channels, vectors,
    HAS_BIAS: tl.constexpr, IN_PLACE: tl.constexpr,
    VECTOR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TABLE: tl.constexpr,
):  # fmt: skip
    """Sort the pairs of a tile of rows and keep their bits; the cut is that of ``PlanarTiles``."""
    length = _count(vectors, VECTOR)
    width = _bytes_of_bits(vectors, VECTOR)
    blocks = tl.cdiv(length, COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    first_row = program // blocks * ROWS
    row = first_row + tl.arange(0, ROWS)
    start = (program % blocks) * COLUMNS
    column = start + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < length)[None, :]
    first = row[:, None] * (2 * length) + column[None, :]
    a = tl.load(x + first, inside, other=0)
    b = tl.load(x + first + length, inside, other=0)
    if HAS_BIAS:  # one wide access for all rows, handed out on the chip; else each thread asks for each of its rows
        place = tl.arange(0, TABLE)
        table = tl.load(bias + (2 * first_row + place) % channels, place < 2 * ROWS, 0)
        of_a, of_b = tl.split(tl.reshape(table, (TABLE // 2, 2)))
        a = _add(a, tl.gather(of_a, tl.arange(0, ROWS), 0)[:, None])
        b = _add(b, tl.gather(of_b, tl.arange(0, ROWS), 0)[:, None])
    swap, low, high = _sort_pairs(a, b)
    if IN_PLACE:  # what one thread loads another may store
        tl.debug_barrier()
    tl.store(y + first, low, inside)
    tl.store(y + first + length, high, inside)
    bits = tl.reshape((swap & inside).to(tl.int32), (ROWS, COLUMNS // 8, 8)) << tl.arange(0, 8)[None, None, :]
    byte = start // 8 + tl.arange(0, COLUMNS // 8)
    held = (row < rows)[:, None] & (byte < width)[None, :]
    tl.store(mask + row[:, None] * width + byte[None, :], tl.sum(bits, 2).to(tl.uint8), held)


@triton.jit
def _route_rows(
    grad_y, mask, grad_x, row, block, rows, length, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Route the gradient of a tile of rows by their bits; gives its sums over the columns, (ROWS, 2)."""
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    byte = block * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8)
    held = (row < rows)[:, None] & (byte < width)[None, :]
    bits = tl.load(mask + row[:, None] * width + byte[None, :], held, other=0).to(tl.int32)
    swap = tl.reshape((bits[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1, (ROWS, COLUMNS)) != 0
    inside = (row < rows)[:, None] & (column < length)[None, :]
    first = row[:, None] * (2 * length) + column[None, :]
    low = tl.load(grad_y + first, inside, other=0)
    high = tl.load(grad_y + first + length, inside, other=0)
    a = tl.where(swap, high, low)
    b = tl.where(swap, low, high)
    tl.store(grad_x + first, a, inside)
    tl.store(grad_x + first + length, b, inside)
    return tl.join(tl.sum(a.to(tl.float32), 1), tl.sum(b.to(tl.float32), 1))


@triton.jit
def planar_backward(
    grad_y, mask, grad_x, sums, rows, vectors,
    HAS_SUMS: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Route the gradient of two tiles of rows, one after the other; sums: (tiles along a row, rows, 2).

    The sums of both go out in one access: 3 of 67 accesses are then narrower than 16 bytes, of one tile 2 of 34.
    """
    length = _count(vectors, VECTOR)
    width = _bytes_of_bits(vectors, VECTOR)
    blocks = tl.cdiv(length, COLUMNS)
    program = tl.program_id(0).to(tl.int64)
    block = program % blocks
    row = program // blocks * (2 * ROWS) + tl.arange(0, ROWS)
    near = _route_rows(grad_y, mask, grad_x, row, block, rows, length, width, ROWS, COLUMNS)
    far = _route_rows(grad_y, mask, grad_x, row + ROWS, block, rows, length, width, ROWS, COLUMNS)
    if HAS_SUMS:
        tile_row = row[:, None, None] + ROWS * tl.arange(0, 2)[None, None, :]
        place = 2 * (block * rows + tile_row) + tl.arange(0, 2)[None, :, None]
        tl.store(sums + place, tl.join(near, far), tile_row < rows)


@triton.jit
def interleaved_forward(
    x, bias, y, mask, vectors, channels,
    HAS_BIAS: tl.constexpr, IN_PLACE: tl.constexpr,
    VECTOR: tl.constexpr, PAIRS: tl.constexpr, STRIDE: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Sort the pairs of a run, step by step, and keep their bits; the cut is that of ``InterleavedTiles``."""
    count = _count(vectors, VECTOR)
    width = _bytes_of_bits(vectors, VECTOR)
    begin = tl.program_id(0).to(tl.int64) * STRIDE
    lane = tl.arange(0, 2 * PAIRS)
    own_byte = tl.arange(0, PAIRS // 8)
    if HAS_BIAS:  # the same in every step: see InterleavedTiles
        added = tl.load(bias + (2 * begin + tl.arange(0, FOLD)) % channels)
    for start in range(begin, count, tl.num_programs(0).to(tl.int64) * STRIDE):
        element = 2 * start + lane
        inside = (element < 2 * count) & (lane < 2 * STRIDE)
        values = tl.load(x + element, inside, other=0)
        if HAS_BIAS:
            values = tl.reshape(_add(tl.reshape(values, (2 * PAIRS // FOLD, FOLD)), added[None, :]), (2 * PAIRS,))
        a, b = tl.split(tl.reshape(values, (PAIRS, 2)))
        swap, low, high = _sort_pairs(a, b)
        if IN_PLACE:
            tl.debug_barrier()
        tl.store(y + element, tl.interleave(low, high), inside)
        swap = swap & (start + tl.arange(0, PAIRS) < count)
        bits = tl.reshape(swap.to(tl.int32), (PAIRS // 8, 8)) << tl.arange(0, 8)[None, :]
        byte = start // 8 + own_byte
        tl.store(mask + byte, tl.sum(bits, 1).to(tl.uint8), (byte < width) & (own_byte < STRIDE // 8))


@triton.jit
def interleaved_backward(
    grad_y, mask, grad_x, sums, vectors,
    HAS_SUMS: tl.constexpr, VECTOR: tl.constexpr, PAIRS: tl.constexpr, STRIDE: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Route the gradient of a run by its bits, step by step; sums: what each program added up, lane by lane."""
    count = _count(vectors, VECTOR)
    width = _bytes_of_bits(vectors, VECTOR)
    begin = tl.program_id(0).to(tl.int64) * STRIDE
    lane = tl.arange(0, 2 * PAIRS)
    own_byte = tl.arange(0, PAIRS // 8)
    total = tl.zeros((FOLD,), tl.float32)
    for start in range(begin, count, tl.num_programs(0).to(tl.int64) * STRIDE):
        byte = start // 8 + own_byte
        bits = tl.load(mask + byte, (byte < width) & (own_byte < STRIDE // 8), other=0).to(tl.int32)
        swap = tl.reshape((bits[:, None] >> tl.arange(0, 8)[None, :]) & 1, (PAIRS,)) != 0
        element = 2 * start + lane
        inside = (element < 2 * count) & (lane < 2 * STRIDE)
        low, high = tl.split(tl.reshape(tl.load(grad_y + element, inside, other=0), (PAIRS, 2)))
        routed = tl.interleave(tl.where(swap, high, low), tl.where(swap, low, high))
        tl.store(grad_x + element, routed, inside)
        if HAS_SUMS:
            total += tl.sum(tl.reshape(routed.to(tl.float32), (2 * PAIRS // FOLD, FOLD)), 0)
    if HAS_SUMS:
        kept: tl.constexpr = FOLD if FOLD < 2 * STRIDE else 2 * STRIDE
        place = tl.arange(0, FOLD)
        tl.store(sums + tl.program_id(0).to(tl.int64) * kept + place, total, place < kept)


def minmax(x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return y and the mask: the CUDA implementation of the op ``gloro_fast::minmax``."""
    if not (x.is_contiguous() or _is_channels_last(x)):
        x = x.contiguous()
    y = torch.empty_like(x)
    return y, _forward(x, bias, y)


def minmax_(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Write y over ``x`` and give the mask: the CUDA implementation of the op ``gloro_fast::minmax_``."""
    if not (x.is_contiguous() or _is_channels_last(x)):
        raise RuntimeError("minmax_: x must be contiguous or channels_last to be written over")
    return _forward(x, bias, x)


def minmax_backward(grad_y: Tensor, mask: Tensor, with_bias: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and bias: the CUDA implementation of the op ``gloro_fast::minmax_backward``."""
    planar = mask.dim() == 2
    channels_last = not planar and grad_y.dim() == 4
    grad_y = grad_y.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    mask_shape, rows, launch = _backward_of(grad_y.shape, grad_y.dtype, planar, with_bias, place_of(grad_y))
    if mask.dtype != torch.uint8 or mask.shape != mask_shape or mask.device != grad_y.device:
        raise RuntimeError("minmax_backward: the mask is not that of a tensor of this shape")
    grad_x = torch.empty_like(grad_y)
    if launch is None:
        return grad_x, grad_y.new_zeros(grad_y.shape[1] if with_bias else 0)
    sums = grad_y.new_empty((rows, grad_y.shape[1]), dtype=torch.float32) if with_bias else None
    launch(grad_y, mask.contiguous(), grad_x, sums)
    # A launch of its own, as a bias has in PyTorch: for the last program to add up instead, what counts the programs
    # would have to be zeroed before each launch and be no other's, be it on another stream or in a graph.
    return grad_x, grad_y.new_empty(0) if sums is None else sums.sum(0).to(grad_y.dtype)


def _forward(x: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
    """Write y and give the mask."""
    of_bias = None if bias is None else (bias.shape, bias.dtype, bias.device == x.device)
    mask_shape, launch = _forward_of(x.shape, x.dtype, x.is_contiguous(), of_bias, x is y, place_of(x))
    mask = x.new_empty(mask_shape, dtype=torch.uint8)
    if launch is not None:
        launch(x, None if bias is None else bias.contiguous(), y, mask)
    return mask


@planned
def _forward_of(
    shape: torch.Size,
    dtype: torch.dtype,
    contiguous: bool,
    bias: tuple[torch.Size, torch.dtype, bool] | None,
    in_place: bool,
) -> tuple[tuple[int, ...], Launch | None]:
    """Return the shape of the mask, and how to launch a forward pass: on x, the bias, y, the mask.

    Args:
        shape: of x.
        dtype: of x.
        contiguous: whether x is; it is channels_last otherwise.
        bias: its shape and type, and whether it is where x is.
        in_place: whether y is x.
    """
    _check(shape, dtype)
    if bias is not None and bias != (shape[1:2], dtype, True):
        raise RuntimeError(f"minmax: bias must hold one value a channel ({shape[1]}) of the type of x, beside x")
    planar = contiguous and _length(shape) != 1
    mask_shape = _mask_shape(shape, planar)
    if 0 in shape:
        return mask_shape, None
    flags = {"HAS_BIAS": bias is not None, "IN_PLACE": in_place}
    if planar:
        tiles = PlanarTiles.of(shape, dtype.itemsize, a_program=1)
        return mask_shape, Launch(
            planar_forward, (tiles.programs,), (tiles.rows, shape[1], tiles.vectors), **flags,
            VECTOR=tiles.vector, ROWS=tiles.tile_rows, COLUMNS=tiles.tile_columns, TABLE=tiles.table,
            num_warps=tiles.warps,
        )  # fmt: skip
    runs = InterleavedTiles.of(shape, dtype.itemsize, whole_pixels=bias is not None)
    return mask_shape, Launch(
        interleaved_forward, (runs.programs,), (runs.vectors, shape[1]), **flags,
        VECTOR=runs.vector, PAIRS=runs.pairs, STRIDE=runs.stride, FOLD=runs.fold, num_warps=runs.warps,
    )  # fmt: skip


@planned
def _backward_of(
    shape: torch.Size, dtype: torch.dtype, planar: bool, with_bias: bool
) -> tuple[tuple[int, ...], int, Launch | None]:
    """Return the shape of the mask, and how to launch a backward pass: on the gradient of y, the mask, that of x, sums.

    The sums of the gradient of x are asked for with the bias, in float32: rows, so many, of one value a channel.
    """
    _check(shape, dtype)
    mask_shape = _mask_shape(shape, planar)
    if 0 in shape:
        return mask_shape, 0, None
    if planar:
        tiles = PlanarTiles.of(shape, dtype.itemsize, a_program=2)
        return mask_shape, tiles.blocks * shape[0], Launch(
            planar_backward, (tiles.programs,), (tiles.rows, tiles.vectors),
            HAS_SUMS=with_bias, VECTOR=tiles.vector, ROWS=tiles.tile_rows, COLUMNS=tiles.tile_columns,
            num_warps=tiles.warps,
        )  # fmt: skip
    runs = InterleavedTiles.of(shape, dtype.itemsize, whole_pixels=with_bias)
    return mask_shape, runs.rows_of_sums, Launch(
        interleaved_backward, (runs.programs,), (runs.vectors,),
        HAS_SUMS=with_bias, VECTOR=runs.vector, PAIRS=runs.pairs, STRIDE=runs.stride, FOLD=runs.fold,
        num_warps=runs.warps,
    )  # fmt: skip


def _check(shape: torch.Size, dtype: torch.dtype) -> None:
    if len(shape) < 2 or shape[1] % 2 != 0 or dtype not in DTYPES:
        raise RuntimeError(
            "minmax: expected (batch, channels in pairs, ...) of float32, bfloat16 or float16,"
            f" got {dtype} {tuple(shape)}"
        )


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _length(shape: torch.Size) -> int:
    return math.prod(shape[2:])


def _mask_shape(shape: torch.Size, planar: bool) -> tuple[int, ...]:
    if planar:
        return shape[0] * (shape[1] // 2), triton.cdiv(_length(shape), 8)
    return (triton.cdiv(shape[0] * _length(shape) * (shape[1] // 2), 8),)
