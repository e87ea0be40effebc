"""TF32 in training: whether a GPU multiplies float32 numbers by their first 10 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(wanted: bool | None) -> Iterator[None]:
    """Let convolutions and matrix products use TF32 or not for a while, and put the process's switches back afterwards.

    Switches are set by their new names, which torch has had since 2.9 and which never raise. The old ones,
    ``allow_tf32`` and ``torch.get_float32_matmul_precision``, stay what they are: as long as they say something else,
    torch raises where they are read.

    Args:
        wanted: whether to; None leaves the switches as they are.
    """
    if wanted is None:
        yield
        return
    conv, matmul = _switches()
    above = torch.backends.cudnn, torch.backends
    before = _own(conv, *above), _own(matmul, *above)
    try:
        conv.fp32_precision = matmul.fp32_precision = "tf32" if wanted else "ieee"
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = before


def allowed() -> str:
    """Say what the process's switches allow TF32 for on a GPU: convolutions, matrix products, both or nothing."""
    names = zip(("convolutions", "matrix products"), _switches(), strict=True)
    return " and ".join(name for name, switch in names if switch.fp32_precision == "tf32") or "nothing"


def _switches() -> tuple[Any, Any]:
    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]


def _own(switch: Any, *above: Any) -> str:
    """Return what a switch itself is set to, "none" where it follows those above it.

    Reading one that follows gives what it follows, which would then be kept as its own.
    """
    value = str(switch.fp32_precision)
    if not above or value == "none" or value != above[0].fp32_precision:
        return value
    kept = _own(*above)
    try:
        above[0].fp32_precision = "ieee" if value == "tf32" else "tf32"
        return value if switch.fp32_precision == value else "none"
    finally:
        above[0].fp32_precision = kept
