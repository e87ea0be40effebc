from __future__ import annotations

import json

import pytest
from PIL import Image

from benchmarks.chart import bars
from benchmarks.ratios import Ratio
from benchmarks.record import COST, RATE, SPEEDUP, Comparison, Record
from benchmarks.report import report
from benchmarks.table import markdown, ratio_of, verdict

MACHINE = {
    "processor": "A processor",
    "cores": 2,
    "threads": 2,
    "system": "Linux",
    "python": "3.11",
    "torch": "2.13",
    "compiled_ops": False,
    "compiler": None,
    "simd": None,
    "load_at_start": 0.5,
}
COMMIT = {"id": "0123456789abcdef", "dirty": False}


@pytest.fixture
def timed():
    return Record(
        "training step",
        "2C2F, batch 512",
        "s",
        {"gloro_fast": [0.010, 0.011, 0.012], "stock": [0.010, 0.010, 0.010], "eager": [0.020, 0.033, 0.024]},
        {"gloro_fast": "ours", "stock": "standard ReLU", "eager": "plain PyTorch"},
        [Comparison("stock", COST, 1.05), Comparison("eager", SPEEDUP, 1.9), Comparison("stock", RATE)],
        work={"gloro_fast": 4e9, "stock": 2e9},
        left_out={"torch.compile": "no compiler"},
        notes=["a fact"],
    )


@pytest.fixture
def counted():
    samples = {"gloro_fast": [3.0 * 2**20], "stock": [2.0 * 2**20]}
    return Record("bytes", "2C2F", "B", samples, {"gloro_fast": "ours", "stock": "theirs"}, [Comparison("stock")])


def test_ratios_are_taken_in_the_direction_asked_for(timed):
    cost, speedup, rate = (ratio_of(timed, comparison).median for comparison in timed.comparisons)
    assert cost == pytest.approx(1.1)
    assert speedup == pytest.approx(2.0)
    assert rate == pytest.approx(2 / 1.1)


@pytest.mark.parametrize(
    ("kind", "interval", "expected"),
    [
        (COST, (0.9, 1.0, 1.04), "yes"),
        (COST, (0.9, 1.0, 1.2), "yes, within noise"),
        (COST, (1.0, 1.1, 1.2), "no, within noise"),
        (COST, (1.06, 1.1, 1.2), "no"),
        (SPEEDUP, (1.06, 1.1, 1.2), "yes"),
        (SPEEDUP, (1.0, 1.1, 1.2), "yes, within noise"),
        (RATE, (0.9, 1.0, 1.2), "no, within noise"),
        (RATE, (0.9, 1.0, 1.04), "no"),
    ],
)
def test_the_verdict_looks_at_the_whole_interval(kind, interval, expected):
    lower, median, upper = interval
    assert verdict(Comparison("stock", kind, 1.05), Ratio(median, lower, upper, 9)) == expected


def test_a_record_survives_json(timed):
    assert Record.from_dict(json.loads(json.dumps(timed.to_dict()))) == timed


def test_the_table_names_comparator_spread_interval_goal_and_verdict(timed, counted):
    text = markdown([timed, counted], MACHINE, COMMIT, "make bench")
    row = next(line for line in text.splitlines() if "theirs / ours" in line)
    assert row.startswith("| 2C2F, batch 512 | 11 ms (10.5 to 11.5) | eager | 24 ms (22 to 28.5) | theirs / ours | 2 [")
    assert row.endswith("| ≥ 1.9 | yes |")
    assert "| 3 MiB | stock | 2 MiB | ours / theirs | 1.500 (exact count) |" in text
    assert "364 GF/s" in text
    for phrase in ("- stock: standard ReLU", "- a fact", "torch.compile was not run: no compiler", "0123456789ab."):
        assert phrase in text


def test_bars_show_what_ours_costs_and_no_shares_of_a_peak(timed):
    stock, eager = bars([timed])
    assert stock.value == pytest.approx(1.1)
    assert eager.value == pytest.approx(0.5)
    assert eager.goal == pytest.approx(1 / 1.9)
    assert eager.lower <= eager.value <= eager.upper


def test_the_report_writes_table_and_chart_beside_the_json(tmp_path, timed, counted):
    path = tmp_path / "run.json"
    document = {"machine_info": MACHINE, "commit_info": COMMIT}
    entries = [{"extra_info": record.to_dict()} for record in (timed, counted)]
    path.write_text(json.dumps({**document, "benchmarks": entries}), encoding="utf-8")
    text = report(path, "make bench")
    assert (tmp_path / "run.md").read_text(encoding="utf-8") == text
    with Image.open(tmp_path / "run.png") as picture:
        assert picture.format == "PNG"


def test_a_run_without_benchmarks_is_refused(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"benchmarks": []}', encoding="utf-8")
    with pytest.raises(ValueError, match="no benchmarks"):
        report(path, "make bench")
