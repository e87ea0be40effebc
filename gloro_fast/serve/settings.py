"""The limits of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gloro_fast.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What a server takes and when it refuses.

    Attributes:
        max_batch: images of one forward pass at most.
        max_wait_ms: how long an image waits for others, in milliseconds.
        max_bytes: size of a request's body at most.
        rate: images a second that one client (an address) may send on average; 0 for any number. Beyond: 429.
        max_queue: images that wait at most. Beyond: 503.
        timeout: seconds for receiving a body (408), and for certifying it (504).
        executed: cover the rounding of the forward pass too, as ``net.certify(x, executed=True)``.

    Raises:
        ConfigError: a limit is out of range; names it.
    """

    max_batch: int = 64
    max_wait_ms: float = 2.0
    max_bytes: int = 10_000_000
    rate: float = 0.0
    max_queue: int = 1024
    timeout: float = 30.0
    executed: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_bytes", "max_queue"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a number from 1 on")
        for name in ("max_wait_ms", "rate", "timeout"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "timeout" and value == 0):
                raise ConfigError(f"{name} is {value:g}; give a finite number {'> 0' if name == 'timeout' else '>= 0'}")
        if self.max_queue < self.max_batch:
            raise ConfigError(f"max_queue is {self.max_queue}, below max_batch {self.max_batch}; give at least that")
