"""Settings of layers that PyTorch takes as one number for all dimensions, or as one a dimension."""

from __future__ import annotations

from collections.abc import Sequence


def each(setting: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """Return one number a dimension: a layer's attribute may have been set to a single one after it was made."""
    numbers = (setting,) if isinstance(setting, int) else tuple(setting)
    return numbers * dimensions if len(numbers) == 1 else numbers
