"""How rows of logits are cut into programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import triton

from .launch_table import entry_of_current_device

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
    def of(cls, count: int, classes: int) -> RowTiles:
        """Cut logits (count, classes), contiguous, on the current device."""
        cut = entry_of_current_device().rows
        columns = triton.next_power_of_2(classes)
        staged = classes <= cut.short_classes
        vector = classes if staged else math.gcd(classes, _LARGEST_VECTOR)  # few classes are known at compile time
        rows = cut.short_rows if staged else max(1, cut.elements // columns)
        flat = triton.next_power_of_2(rows * classes)
        warps = cut.short_warps if staged else max(1, columns // cut.elements)
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
