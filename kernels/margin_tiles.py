"""How rows of logits are cut into programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import triton
from torch import Tensor

_TILE = 512  # elements a warp, 16 a thread: few enough for registers, and most rows need no reduction over warps
_STAGED_ROWS = 64
_STAGED_CLASSES = 12  # up to here D comes once a program: at most 7 % of what it moves
_STAGED_WARPS = 4  # several, so that Triton deals out through shared memory: within one it takes 13,000 instructions
_LARGEST_VECTOR = 8


@dataclass(frozen=True)
class RowTiles:
    """Tiles of ``tile_rows`` whole rows of ``vectors * vector`` classes, in ``tile_columns`` columns.

    ``staged``: rows are so short that single ones would be loaded in pieces of sectors; the run of memory that the
    tile is comes in at once, of ``flat`` elements at most, and D too.
    """

    MOST_CLASSES: ClassVar[int] = 4096

    count: int
    vectors: int
    vector: int
    staged: bool
    tile_rows: int
    tile_columns: int
    flat: int
    warps: int

    @classmethod
    def of(cls, logits: Tensor) -> RowTiles:
        """Cut logits (rows, classes), contiguous."""
        count, classes = logits.shape
        columns = triton.next_power_of_2(classes)
        staged = classes <= _STAGED_CLASSES
        vector = classes if staged else math.gcd(classes, _LARGEST_VECTOR)  # few classes are known at compile time
        rows = _STAGED_ROWS if staged else max(1, _TILE // columns)
        flat = triton.next_power_of_2(rows * classes)
        warps = _STAGED_WARPS if staged else max(1, columns // _TILE)
        return cls(count, classes // vector, vector, staged, rows, columns, flat, warps)

    @property
    def programs(self) -> int:
        """One a tile."""
        return triton.cdiv(self.count, self.tile_rows)  # type: ignore[no-any-return]

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels are compiled for."""
        return {
            "VECTOR": self.vector,
            "STAGED": self.staged,
            "ROWS": self.tile_rows,
            "COLUMNS": self.tile_columns,
            "FLAT": self.flat,
        }
