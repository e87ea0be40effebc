"""How many images a client may send: a token bucket for each address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

_CLIENTS = 10_000


class RateLimit:
    """Lets each client send ``rate`` images a second on average, and as many as ``burst`` at once.

    The clients seen last are remembered, at most 10,000; who is forgotten begins anew.

    Args:
        rate: images a second; 0 for any number.
        burst: images at once.
        clock: gives seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, max(float(burst), rate), clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, images: int) -> int:
        """Return 0 if a client may send so many images now, which then count, else after how many seconds it may."""
        if self._rate == 0:
            return 0
        now = self._clock()
        left, since = self._clients.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        allowed = left >= images
        self._clients[client] = (left - images if allowed else left, now)
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((images - left) / self._rate))
