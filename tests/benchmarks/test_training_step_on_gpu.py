"""What the benchmark of a training step measures on a GPU: its host logic, the processes replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import bench_training_step as bench
from benchmarks.budget import Budget
from benchmarks.device_time import DeviceTime
from benchmarks.step_process import COMPILED, OURS_IN_A_GRAPH, STOCK_IN_A_GRAPH, StepProcess
from benchmarks.stock import Settings

GPU = torch.device("cuda")
TIME = DeviceTime(0.002, 0.001, 0.0005, 52.0)


class Process(StepProcess):
    """Steps at once, but for kinds that cannot run."""

    failing: frozenset[str] = frozenset()

    def __init__(self, network: str, device: torch.device, kind: str, settings: Settings | None = None) -> None:
        self.kind, self.settings = kind, settings

    def __exit__(self, *error: Any) -> None:
        pass

    def __call__(self) -> None:
        if self.kind in self.failing:
            raise RuntimeError(f"cannot run {self.kind}")

    def device_time(self) -> DeviceTime:
        return TIME


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(network: str, device: torch.device, candidates: dict[str, list[Settings]], rounds: int) -> Any:
        order = {kind: each[::-1] if kind == STOCK_IN_A_GRAPH else each for kind, each in candidates.items()}
        return {kind: dict.fromkeys(each, 1e-3) for kind, each in order.items()}

    bench.stock_in_a_graph.cache_clear()
    monkeypatch.setattr(bench, "choose", choose)
    monkeypatch.setattr(bench, "StepProcess", Process)
    monkeypatch.setattr(Process, "failing", frozenset())


def measured(test: Any, *arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def measure(job: str, case: str, contenders: Any, comparisons: Any, **facts: Any) -> None:
        found.update(job=job, contenders=contenders, comparisons=comparisons, **facts)

    test("2C2F", measure, GPU, False, *arguments)
    return found


def test_all_contenders_step_and_say_where_their_time_goes() -> None:
    found = measured(bench.test_training_step, Budget(300.0, 3))
    names = ["gloro_fast", "stock, best", "stock, plain", "eager", STOCK_IN_A_GRAPH, COMPILED]
    assert sorted(found["contenders"]) == sorted(names)
    assert found["device_times"] == dict.fromkeys(found["contenders"], TIME)
    assert set(names) <= set(found["described"])
    assert found["left_out"] == {}


def test_stock_in_a_graph_has_the_settings_that_are_fastest_in_a_graph() -> None:
    found = measured(bench.test_training_step, Budget(300.0, 3))
    in_a_graph, best = (found["contenders"][name].settings for name in (STOCK_IN_A_GRAPH, "stock, best"))
    assert (best, in_a_graph) == (bench.CANDIDATES[0], bench.CANDIDATES[-1])


def test_what_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "failing", frozenset({STOCK_IN_A_GRAPH}))
    found = measured(bench.test_training_step, Budget(30.0, 3))
    assert STOCK_IN_A_GRAPH not in found["contenders"]
    assert found["left_out"][STOCK_IN_A_GRAPH] == f"RuntimeError: cannot run {STOCK_IN_A_GRAPH}"
    assert "has not left" in found["left_out"][COMPILED]


def test_ours_in_a_graph_beside_stock_in_a_graph() -> None:
    found = measured(bench.test_training_step_in_a_graph)
    assert [process.kind for process in found["contenders"].values()] == [OURS_IN_A_GRAPH, STOCK_IN_A_GRAPH]
    assert [comparison.goal for comparison in found["comparisons"]] == [1.10]
    assert found["device_times"] == dict.fromkeys(found["contenders"], TIME)
