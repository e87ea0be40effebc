"""From pytest-benchmark's JSON to the table and the chart beside it."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import chart, table
from benchmarks.record import Record
from gloro_fast.files import atomic


def report(path: Path, command: str) -> str:
    """Write ``path`` with the endings .md and .png, and give the table.

    Args:
        path: what ``--benchmark-json`` wrote.
        command: what was run, for the record.

    Raises:
        ValueError: the file holds no benchmarks.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    records = [Record.from_dict(entry["extra_info"]) for entry in document["benchmarks"]]
    if not records:
        raise ValueError(f"{path} holds no benchmarks; run them first")
    text = table.markdown(records, document["machine_info"], document["commit_info"], command)
    atomic.write_text(path.with_suffix(".md"), text)
    chart.draw(records, path.with_suffix(".png"))
    return text
