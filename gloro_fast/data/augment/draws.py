"""The random numbers of augmentation: drawn on the CPU, so that a seed means the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError


def uniform(generator: torch.Generator, count: int, low: list[float], high: list[float]) -> Tensor:
    """Draw one row of uniform numbers an image.

    Args:
        generator: a CPU generator.
        count: images.
        low: lower end of each column.
        high: upper end of each column.

    Returns:
        (count, len(low)) float64 on the CPU, column k in [low[k], high[k]).

    Raises:
        ConfigError: the generator belongs to another device.
    """
    if generator.device.type != "cpu":
        raise ConfigError(f"augmentation draws on the CPU; give a CPU generator, not one of {generator.device}")
    bottom, top = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    return bottom + (top - bottom) * torch.rand(count, len(low), generator=generator, dtype=torch.float64)
