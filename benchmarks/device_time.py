"""Where the time of a job goes: to the device, or to the Python that feeds it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.interleaving import Job, at_once


@dataclass(frozen=True)
class DeviceTime:
    """What one call of a job takes, many of them in a row.

    Attributes:
        wall: seconds from one call to the next.
        host: seconds until a call returns, its work handed to the device.
        gpu: seconds that the kernels and copies of a call run, added up; None on the CPU.
        launches: kernels and copies of a call; None on the CPU.
    """

    wall: float
    host: float
    gpu: float | None = None
    launches: float | None = None


def device_time(job: Job, device: torch.device, *, calls: int = 20, rounds: int = 5) -> DeviceTime:
    """Measure a job that waits for nothing itself.

    Args:
        job: called ``calls`` times a round, after a round of warm-up.
        device: what it runs on.
        calls: a round; the device is waited for after the last.
        rounds: of which the medians are given.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else at_once
    walls, hosts = [], []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        for _ in range(calls):
            job()
        hosts.append((time.perf_counter() - start) / calls)
        wait()
        walls.append((time.perf_counter() - start) / calls)
    times = DeviceTime(median(walls[1:]), median(hosts[1:]))
    if device.type != "cuda":
        return times
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(calls):
            job()
        wait()
    events = [event for event in seen.key_averages() if event.self_device_time_total > 0]
    gpu = sum(event.self_device_time_total for event in events) / calls / 1e6
    return DeviceTime(times.wall, times.host, gpu, sum(event.count for event in events) / calls)
