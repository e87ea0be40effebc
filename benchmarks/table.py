"""The records of a run as Markdown: one row a ratio, its comparator and the spread of both beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmarks.ratios import Ratio, Spread, paired_ratio, spread
from benchmarks.record import COST, RATE, SPEEDUP, Comparison, Record

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTE_UNITS = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_HEADER = (
    "| case | ours: median (quartiles) | against | theirs: median (quartiles) | ratio | value [95 % interval] | goal "
    "| reached |\n|---|---|---|---|---|---|---|---|"
)
_DEVICE_TIMES = "| case | contender | wall | GPU time | host time | launches |\n|---|---|---|---|---|---|"
_MEANING = {COST: "ours / theirs", SPEEDUP: "theirs / ours", RATE: "our rate / theirs"}


def ratio_of(record: Record, comparison: Comparison) -> Ratio:
    """Return the ratio that ``comparison`` asks for, taken round by round."""
    ours, theirs = record.samples[record.ours], record.samples[comparison.against]
    if comparison.kind == COST:
        return paired_ratio(ours, theirs)
    ratio = paired_ratio(theirs, ours)
    if comparison.kind == SPEEDUP:
        return ratio
    factor = record.work[record.ours] / record.work[comparison.against]
    return Ratio(ratio.median * factor, ratio.lower * factor, ratio.upper * factor, ratio.rounds)


def verdict(comparison: Comparison, ratio: Ratio) -> str:
    """Say whether the goal is reached, and whether the interval leaves that open."""
    if comparison.goal is None:
        return ""
    sign = 1 if comparison.kind == COST else -1
    goal, median = sign * comparison.goal, sign * ratio.median
    best, worst = sorted((sign * ratio.lower, sign * ratio.upper))
    if worst <= goal:
        return "yes"
    if best > goal:
        return "no"
    return "yes, within noise" if median <= goal else "no, within noise"


def markdown(records: Sequence[Record], machine: Mapping[str, Any], commit: Mapping[str, Any], command: str) -> str:
    """Return the whole page.

    Args:
        records: of one run.
        machine: what it ran on, as ``benchmarks.machine`` describes it.
        commit: id and state of the source, as pytest-benchmark found them.
        command: what was run.
    """
    parts = ["# Benchmark results", _provenance(machine, commit, command)]
    for job, group in groupby(records, key=lambda record: record.job):
        parts.append(_section(job, list(group)))
    return "\n\n".join(parts) + "\n"


def _provenance(machine: Mapping[str, Any], commit: Mapping[str, Any], command: str) -> str:
    state = " with uncommitted changes" if commit.get("dirty") else ""
    ops = f"compiled ({machine['compiler']}, {machine['simd']})" if machine["compiled_ops"] else "plain PyTorch"
    processor = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores"
    return (
        f"`{command}` at commit {str(commit.get('id'))[:12]}{state}. {processor}, {machine['threads']} threads, "
        f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}; ops {ops}; load before the run "
        f"{machine['load_at_start']}. Ratios are medians over paired rounds, with their 95 % bootstrap interval."
    )


def _section(job: str, records: Sequence[Record]) -> str:
    lines = [f"## {job}", "", _HEADER]
    for record in records:
        lines += [_row(record, comparison) for comparison in record.comparisons]
    lines += ["", *_device_times(records)]
    described = dict(item for record in records for item in record.described.items() if item[0] in record.samples)
    same = {name: {record.described.get(name) for record in records if name in record.samples} for name in described}
    for name, texts in same.items():
        if len(texts) == 1:
            lines.append(f"- {name}: {described[name]}")
        else:
            lines += [f"- {name} ({record.case}): {record.described[name]}" for record in records]
    lines += [f"- {note}" for record in records for note in record.notes]
    lines += _left_out(records)
    return "\n".join(lines)


def _device_times(records: Sequence[Record]) -> list[str]:
    """Say where the time of the contenders goes, one call after the other without waiting."""
    rows = [
        f"| {record.case} | {name} | {_seconds(time.wall)} | {_seconds(time.gpu)} | {_seconds(time.host)} "
        f"| {'' if time.launches is None else f'{time.launches:.4g}'} |"
        for record in records
        for name, time in record.device_times.items()
    ]
    return [_DEVICE_TIMES, *rows, ""] if rows else []


def _seconds(value: float | None) -> str:
    return "" if value is None else _quantity(Spread(value, value, value), _TIME_UNITS, varies=False)


def _left_out(records: Sequence[Record]) -> list[str]:
    cases: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for item in record.left_out.items():
            cases.setdefault(item, []).append(record.case)
    lines = []
    for (name, why), on in cases.items():
        where = "" if len(on) == len(records) else f" on {'; '.join(on)}"
        lines.append(f"- {name} was not run{where}: {why}")
    return lines


def _row(record: Record, comparison: Comparison) -> str:
    ratio = ratio_of(record, comparison)
    scale, digits, unit = (100, "3g", " %") if comparison.kind == RATE else (1, "3g", "")
    if comparison.kind == COST:
        digits = "3f"
    lower, median, upper = (f"{scale * value:.{digits}}" for value in (ratio.lower, ratio.median, ratio.upper))
    interval = f" [{lower}, {upper}]" if ratio.rounds > 1 else " (exact count)"
    goal = ""
    if comparison.goal is not None:
        goal = f"{'≤' if comparison.kind == COST else '≥'} {scale * comparison.goal:.4g}{unit}"
    cells = [
        record.case,
        _value(record, record.ours, comparison),
        comparison.against,
        _value(record, comparison.against, comparison),
        _MEANING[comparison.kind],
        f"{median}{unit}{interval}",
        goal,
        verdict(comparison, ratio),
    ]
    return f"| {' | '.join(cells)} |"


def _value(record: Record, name: str, comparison: Comparison) -> str:
    values = spread(record.samples[name])
    text = _quantity(values, _TIME_UNITS if record.unit == "s" else _BYTE_UNITS, len(record.samples[name]) > 1)
    if comparison.kind != RATE:
        return text
    rate, unit = record.work[name] / values.median / 1e9, "GF/s" if record.work_unit == "flop" else "GB/s"
    return f"{text}, {rate:.3g} {unit}"


def _quantity(values: Spread, units: Iterable[tuple[float, str]], varies: bool) -> str:
    scale, unit = next((pair for pair in units if values.median >= pair[0]), (1e-6, "µs"))
    lower, median, upper = (f"{value / scale:.3g}" for value in (values.lower, values.median, values.upper))
    return f"{median} {unit} ({lower} to {upper})" if varies else f"{values.median / scale:.4g} {unit}"
