"""The work of an op, and the time that it takes at least on a card."""

from __future__ import annotations

from dataclasses import dataclass

LAUNCH_MICROSECONDS = 2.5
"""Between two kernels of a stream, one waiting for the other: an assumption."""


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: memory bandwidth in GB/s, peak float32 rate without tensor cores in TFLOP/s."""

    name: str
    bandwidth: float
    float32: float


CARDS = (
    Card("RTX 3080", bandwidth=760, float32=29.8),
    Card("RTX 4090", bandwidth=1008, float32=82.6),
    Card("RTX 5090", bandwidth=1792, float32=104.8),
)


@dataclass(frozen=True)
class Work:
    """What an op does in one step.

    Attributes:
        op: and pass.
        case: network or shape, and type.
        launches: kernels, torch's own of a second stage included.
        bytes_moved: to and from memory, every byte once.
        flops: float32 operations, 0 where they are too few to matter.
    """

    op: str
    case: str
    launches: int
    bytes_moved: int
    flops: int = 0

    def microseconds(self, card: Card) -> float:
        """The larger of the times that memory and arithmetic take at full rate, and the launches."""
        memory = self.bytes_moved / (card.bandwidth * 1e3)
        arithmetic = self.flops / (card.float32 * 1e6)
        return max(memory, arithmetic) + self.launches * LAUNCH_MICROSECONDS
