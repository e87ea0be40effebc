"""What a benchmark leaves behind: the rounds of every contender and what is to be compared with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.device_time import DeviceTime

OURS = "gloro_fast"
COST, SPEEDUP, RATE = "cost", "speedup", "rate"


@dataclass(frozen=True)
class Comparison:
    """One ratio, taken round by round.

    Attributes:
        against: the contender that the first one is compared with.
        kind: ``"cost"``: ours / theirs, small is good; ``"speedup"``: theirs / ours, large is good; ``"rate"``:
            work a second of ours / of theirs, large is good.
        goal: the most a cost, or the least a speedup or rate, should be; None where there is none.
    """

    against: str
    kind: str = COST
    goal: float | None = None


@dataclass(frozen=True)
class Record:
    """The outcome of one benchmark.

    Attributes:
        job: what was done, such as ``"training step"``.
        case: on what, such as ``"2C2F, batch 512"``.
        unit: of the samples: ``"s"`` or ``"B"`` (bytes).
        samples: one value a round for each contender, ours first. A count that cannot vary has one value.
        described: what each contender is, in a few words; the comparator of every ratio is printed with it.
        comparisons: the ratios to print.
        work: floating-point operations or bytes moved by one job of a contender, for rates.
        work_unit: ``"flop"`` or ``"B"``.
        left_out: contenders that could not run here, and why.
        notes: facts worth a line under the table.
        device_times: where the time of a contender goes on a GPU.
    """

    job: str
    case: str
    unit: str
    samples: dict[str, list[float]]
    described: dict[str, str]
    comparisons: list[Comparison]
    work: dict[str, float] = field(default_factory=dict)
    work_unit: str = "flop"
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    device_times: dict[str, DeviceTime] = field(default_factory=dict)

    @property
    def ours(self) -> str:
        """The contender that the others are compared with."""
        return next(iter(self.samples))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can say it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Read what :meth:`to_dict` gave."""
        comparisons = [Comparison(**comparison) for comparison in values["comparisons"]]
        device_times = {name: DeviceTime(**time) for name, time in values.get("device_times", {}).items()}
        return cls(**{**values, "comparisons": comparisons, "device_times": device_times})
