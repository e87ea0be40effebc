"""Refusing numbers that are not real: converted to float64, a complex one would lose its imaginary part unseen."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.errors import ArchitectureError

_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def require_floating(what: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` back if it is real floating point.

    Raises:
        ArchitectureError: names it and its type.
    """
    if not tensor.is_floating_point():
        raise ArchitectureError(f"{what} is {tensor.dtype}; use real floating-point numbers")
    return tensor


def require_real(what: str, tensor: Tensor) -> Tensor:
    """Return ``tensor`` back if it is real floating point or holds whole numbers, such as a mask.

    Raises:
        ArchitectureError: names it and its type.
    """
    return tensor if tensor.dtype in _WHOLE else require_floating(what, tensor)
