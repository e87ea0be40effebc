"""How the work of minmax is cut into programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import triton

from .launch_table import Entry, entry_of_current_device

_THREADS_PER_WARP = 32
_BYTES_PER_ACCESS = 16
_LARGEST_VECTOR = 128  # a row of so many pairs has a mask of 16 bytes: one access


@dataclass(frozen=True)
class PlanarTiles:
    """Tiles of ``tile_rows`` rows by ``tile_columns`` columns for rows of ``vectors * vector`` pairs.

    A program takes ``a_program`` of them, one above the other. ``vector`` is the power of two that divides the length
    of a row, as far as it widens an access.
    """

    rows: int
    vectors: int
    vector: int
    tile_rows: int
    tile_columns: int
    table: int  # values of the bias that all threads load at once, at least a tile's
    warps: int
    a_program: int

    @classmethod
    def of(cls, shape: Sequence[int], itemsize: int, a_program: int) -> PlanarTiles:
        """Cut x of this shape, contiguous, on the current device."""
        length = math.prod(shape[2:])
        size, warps = _tile(entry_of_current_device(), math.prod(shape), itemsize, a_program)
        # Long rows are cut after two accesses of each thread: tails leave fewer lanes idle than with whole tiles.
        columns = min(triton.next_power_of_2(max(length, 8)), 2 * _lanes(itemsize, warps), size // 2)
        vector = math.gcd(length, _LARGEST_VECTOR)
        rows = size // 2 // columns
        table = max(_lanes(itemsize, warps), 2 * rows)
        return cls(math.prod(shape) // (2 * length), length // vector, vector, rows, columns, table, warps, a_program)

    @property
    def blocks(self) -> int:
        """Tiles along a row."""
        return triton.cdiv(self.vectors * self.vector, self.tile_columns)  # type: ignore[no-any-return]

    @property
    def programs(self) -> int:
        """As many as take all tiles."""
        return triton.cdiv(self.rows, self.a_program * self.tile_rows) * self.blocks  # type: ignore[no-any-return]


@dataclass(frozen=True)
class InterleavedTiles:
    """Programs that take ``stride`` pairs each, in tiles of ``pairs``, and step on together over the run of pairs.

    With whole pixels, a step of all programs is a number of whole pixels: each lane of a program then sees one and
    the same channel in all steps. Lanes that are ``fold`` elements apart see the same one too.
    """

    vectors: int
    vector: int
    channels: int
    pairs: int
    stride: int
    fold: int
    programs: int
    warps: int

    @classmethod
    def of(cls, shape: Sequence[int], itemsize: int, whole_pixels: bool) -> InterleavedTiles:
        """Cut x of this shape, channels_last or one pixel a sample, on the current device."""
        entry, count = entry_of_current_device(), math.prod(shape) // 2
        size, warps = _tile(entry, 2 * count, itemsize)
        lanes, channels = _lanes(itemsize, warps), shape[1]
        fold, unit = size, 1
        stride = size // 2
        if whole_pixels and channels & (channels - 1) == 0 and channels <= 4 * lanes:
            fold = max(lanes, channels)
        elif whole_pixels:  # each lane keeps its own channel's values, so there must be few
            size = fold = 4 * lanes
            whole = math.lcm(8, channels // 2)  # pairs of whole pixels and whole bytes of the mask
            stride = size // 2 // whole * whole or size // 2
            unit = channels // 2 // math.gcd(channels // 2, stride)
        programs = triton.cdiv(count, stride)
        if whole_pixels:
            programs = max(min(programs, entry.programs) // unit, 1) * unit
        vector = math.gcd(count, _LARGEST_VECTOR)
        return cls(count // vector, vector, channels, size // 2, stride, fold, programs, warps)

    @property
    def rows_of_sums(self) -> int:
        """Rows, one value a channel each, of the sums that all programs leave."""
        return self.programs * min(self.fold, 2 * self.stride) // self.channels


def _lanes(itemsize: int, warps: int) -> int:
    """Elements that all threads of a program access at once."""
    return warps * _THREADS_PER_WARP * _BYTES_PER_ACCESS // itemsize


def _tile(entry: Entry, elements: int, itemsize: int, a_program: int = 1) -> tuple[int, int]:
    """Elements of a tile, and warps: whole tiles if they fill the card, else halved, at the same bytes a thread."""
    size, warps = entry.tile_bytes // itemsize, entry.warps
    while warps > 1 and elements < a_program * size * entry.programs:
        size, warps = size // 2, warps // 2
    return size, warps
