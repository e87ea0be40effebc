"""Rows of a measurement: what a call takes, printed as soon as it is known."""

from __future__ import annotations

import argparse
import gc
import traceback
from collections.abc import Callable

import torch

from benchmarks.device_time import device_time
from benchmarks.interleaving import Job


class Rows:
    """Measures jobs one after the other on a device.

    Args:
        device: where they run.
        fast: whether one call of each is enough, to see that it runs.

    Attributes:
        device: the same.
        fast: the same.
        failed: whether a job could not run.
    """

    def __init__(self, device: torch.device, fast: bool) -> None:
        self.device = device
        self.fast = fast
        self.failed = False

    def row(self, name: str, make: Callable[[], Job]) -> float | None:
        """Make a job, measure and print it, and free its memory; what fails is printed and leaves the others alone.

        Returns:
            Wall time of a call in milliseconds; None if it failed.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            return self._measure(name, make())
        except Exception as error:
            self.failed = True
            self.say(f"{name:<58} FAILED: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}")
            traceback.print_exc(limit=-4)
            return None
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def ratio(self, name: str, ours: float | None, theirs: float | None) -> None:
        """Print how many times longer ours takes, where both are known."""
        if ours is not None and theirs is not None:
            self.say(f"    {name}: {ours / theirs:.2f}")

    def say(self, line: str) -> None:
        """Print a line now: the stage may be stopped before its end."""
        print(line, flush=True)

    def _measure(self, name: str, job: Job) -> float:
        time = device_time(job, self.device, calls=1, rounds=1) if self.fast else device_time(job, self.device)
        text = f"{name:<58} wall {time.wall * 1e3:9.3f} ms, host {time.host * 1e3:9.3f} ms"
        if time.gpu is not None:
            peak = torch.cuda.max_memory_allocated(self.device) / 2**20
            text += f", GPU {time.gpu * 1e3:9.3f} ms, {time.launches:6.1f} launches, peak {peak:8.1f} MiB"
        self.say(text)
        return time.wall * 1e3


def run(measure: Callable[[Rows], None]) -> None:
    """Measure as the command line says; exit code 1 where a job could not run."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--fast", action="store_true", help="one call of everything, small: does it run?")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        print(f"{properties.name}, torch {torch.__version__}", flush=True)
    rows = Rows(device, options.fast)
    measure(rows)
    if rows.failed:
        raise SystemExit(1)
