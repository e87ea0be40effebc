"""The device, how long to measure, and how a benchmark measures and leaves its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import machine
from benchmarks.budget import Budget
from benchmarks.interleaving import Job, at_once, interleave
from benchmarks.record import Comparison, Record
from gloro_fast.train.allocator import keep_freed_memory


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gloro_fast benchmarks")
    group.addoption("--quick", action="store_true", help="few rounds, no torch.compile, no processes of their own")
    group.addoption("--minutes", type=float, help="for the whole run; no limit on the CPU if not given, 5 on a GPU")
    group.addoption("--device", default="", help="what to measure, as torch names it; a GPU if there is one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _minutes(config) is not None:  # what matters most goes first: only the first have time for torch.compile
        items.sort(key=lambda item: "training_step" not in item.nodeid)
    if not config.getoption("--quick"):
        return
    for item in items:
        if item.get_closest_marker("full_only"):
            item.add_marker(pytest.mark.skip(reason="left out of the quick run"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full_only: left out with --quick")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    described = machine.describe(_device(config), machine_info["cpu"])
    machine_info.clear()
    machine_info.update(described)


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    kept = {key: commit_info.get(key) for key in ("id", "time", "dirty")}
    commit_info.clear()
    commit_info.update(kept)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """The device to measure: a GPU if there is one."""
    return _device(pytestconfig)


@pytest.fixture(scope="session")
def quick(pytestconfig: pytest.Config) -> bool:
    """Return whether this is the run of two minutes."""
    return bool(pytestconfig.getoption("--quick"))


@pytest.fixture(scope="session")
def _budget(pytestconfig: pytest.Config, request: pytest.FixtureRequest, quick: bool) -> Budget:
    minutes = _minutes(pytestconfig)
    jobs = [item for item in request.session.items if not item.get_closest_marker("skip")]
    return Budget(None if minutes is None else 60 * minutes, len(jobs), quick=quick)


@pytest.fixture(autouse=True)
def budget(_budget: Budget) -> Budget:
    """The time there is, another benchmark of those that share it begun."""
    _budget.begin()
    return _budget


@pytest.fixture(scope="session")
def synchronize(device: torch.device) -> Callable[[], None]:
    """Wait for the device."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


@pytest.fixture(scope="session", autouse=True)
def _memory_as_in_training(device: torch.device) -> None:
    """Set up the allocator as `gloro-fast train` does; a trainer of some benchmark would do so for those after it."""
    if device.type == "cpu":
        keep_freed_memory()


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()


class Measure:
    """Runs the contenders of one benchmark in interleaved rounds and records what they took."""

    def __init__(
        self, benchmark: BenchmarkFixture, synchronize: Callable[[], None], quick: bool, budget: Budget
    ) -> None:
        self._benchmark = benchmark
        self._synchronize = synchronize
        self._quick = quick
        self._budget = budget

    def __call__(
        self,
        job: str,
        case: str,
        contenders: Mapping[str, Job],
        comparisons: Sequence[Comparison],
        *,
        described: Mapping[str, str],
        seconds: float,
        least: int = 9,
        repeat: int = 1,
        settle: Job = at_once,
        **facts: Any,
    ) -> None:
        """Measure ``contenders``, ours first.

        Args:
            job: what they do.
            case: on what.
            contenders: name to job.
            comparisons: the ratios of interest; those with contenders that could not run are dropped.
            described: name to a few words on each contender.
            seconds: for the rounds of the full run; a fifth of that in the quick one; less where the budget is short.
            least: rounds of the full run at least; five in the quick one.
            repeat: how often a round does a job that is too short for the clock alone.
            settle: called, not timed, before every job.
            **facts: further fields of the record.
        """
        samples = interleave(
            self._benchmark,
            {name: self._waited_for(contender, repeat) for name, contender in contenders.items()},
            seconds=self._budget.rounds(seconds / 5 if self._quick else seconds),
            least=5 if self._quick else least,
            settle=settle,
        )
        single = {name: [value / repeat for value in values] for name, values in samples.items()}
        self.record(Record(job, case, "s", single, dict(described), list(comparisons), **facts))

    def record(self, record: Record) -> None:
        """Leave a record in pytest-benchmark's JSON."""
        present = [comparison for comparison in record.comparisons if comparison.against in record.samples]
        record.comparisons[:] = present
        self._benchmark.group = record.job
        self._benchmark.extra_info.update(record.to_dict())

    def count(self, counting: Callable[[], Record]) -> None:
        """Record what is counted or measured otherwise than by the clock."""
        self.record(self._benchmark.pedantic(counting))  # type: ignore[no-untyped-call]

    def _waited_for(self, contender: Job, repeat: int) -> Job:
        def run() -> None:
            for _ in range(repeat):
                contender()
            self._synchronize()

        return run


@pytest.fixture
def measure(benchmark: BenchmarkFixture, synchronize: Callable[[], None], quick: bool, budget: Budget) -> Measure:
    """Measure contenders and record them."""
    return Measure(benchmark, synchronize, quick, budget)


def _minutes(config: pytest.Config) -> float | None:
    minutes: float | None = config.getoption("--minutes")
    return 5.0 if minutes is None and _device(config).type == "cuda" else minutes


def _device(config: pytest.Config) -> torch.device:
    return torch.device(config.getoption("--device") or ("cuda" if torch.cuda.is_available() else "cpu"))
