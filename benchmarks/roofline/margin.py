"""The margin with its loss: the paper's batches, and more classes."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.roofline.work import Work

_FLOAT, _INDEX = 4, 8


def work() -> Iterator[Work]:
    """Yield forward and backward for batches of float32 logits."""
    for rows, classes in ((512, 10), (256, 200), (512, 1000)):
        case = f"{rows} rows of {classes} classes, float32"
        logits = rows * classes * _FLOAT
        distances = min(rows, classes) * classes * _FLOAT  # the rows of D that are read, each once
        per_row = 2 * _FLOAT + 3 * _INDEX + 1
        yield Work("margin with loss, forward", case, 1, 2 * logits + distances + rows * per_row)
        yield Work("margin with loss, backward", case, 1, 2 * logits + classes * classes * _FLOAT)
