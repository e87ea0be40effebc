"""Where time goes: on the CPU to the host alone; in a table where it is known."""

from __future__ import annotations

import time

import torch

from benchmarks.device_time import DeviceTime, device_time
from benchmarks.record import Record
from benchmarks.table import markdown

CPU = torch.device("cpu")


def test_on_the_cpu_a_job_is_done_when_it_returns() -> None:
    calls = []

    def job() -> None:
        calls.append(None)
        time.sleep(0.002)

    found = device_time(job, CPU, calls=3, rounds=2)
    assert len(calls) == 9
    assert 0.002 <= found.host <= found.wall < 0.2
    assert (found.gpu, found.launches) == (None, None)


def test_the_table_says_it() -> None:
    times = {"gloro_fast": DeviceTime(0.006, 0.0061, 0.00063, 109.0), "stock": DeviceTime(0.002, 0.001)}
    record = Record("training step", "2C2F", "s", {"gloro_fast": [0.006], "stock": [0.002]}, {}, [], device_times=times)
    again = Record.from_dict(record.to_dict())
    assert again == record
    machine = {
        "compiled_ops": False, "processor": "P", "cores": 2, "threads": 2, "system": "Linux", "python": "3",
        "torch": "2", "load_at_start": 0.5,
    }  # fmt: skip
    text = markdown([again], machine, {"id": "0"}, "command")
    assert "| 2C2F | gloro_fast | 6 ms | 630 µs | 6.1 ms | 109 |" in text
    assert "| 2C2F | stock | 2 ms |  | 1 ms |  |" in text
