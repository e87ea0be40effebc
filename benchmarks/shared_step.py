"""How long a training step takes that several processes share, one a core, beside one process on one core.

    python -m benchmarks.shared_step [--processes 2] [--nets 2C2F,4C3F,6C2F] [--rounds 5] [--steps 40]

The global batch is the same. Runs of one and of several processes take turns, each process bound to a core of its own
and at one thread; a run's figure is the median of its steps, the ratio that of the fastest runs. Prints a line a net,
and the load before and after: a quiet machine only, since every process waits for the slowest.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from gloro_fast.data import DataSet, Split
from gloro_fast.distributed import joined
from gloro_fast.recipes import neutral
from gloro_fast.train import Trainer, keep_freed_memory

# Net: shape of an image, images a batch.
NETS = {
    "2C2F": ((1, 28, 28), 512),
    "4C3F": ((1, 28, 28), 128),
    "6C2F": ((3, 32, 32), 128),
    "LiResNet-12x64": ((3, 32, 32), 128),
}
WARM_UP = 5


def work(net: str, steps: int) -> None:
    """Measure steps as one process of a group; the first prints the median in seconds."""
    place = int(os.environ["LOCAL_RANK"])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[place]})
    torch.set_num_threads(1)
    keep_freed_memory()
    shape, batch = NETS[net]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, *shape), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (batch,), generator=generator))
    data = DataSet("noise", split, split, tuple("0123456789"))
    with joined() as group, tempfile.TemporaryDirectory() as folder:
        recipe = neutral("noise", net, 0.1).override(batch_size=batch)
        trainer = Trainer(recipe, data, Path(folder) / "run")
        trainer.net.train()
        pixels, seconds = images.float() / 255, []
        for _ in range(WARM_UP + steps):
            group.barrier()
            start = time.perf_counter()
            trainer.step(pixels, split.labels)
            seconds.append(time.perf_counter() - start)
        if group.is_main:
            print(statistics.median(seconds[WARM_UP:]))


def measure(net: str, processes: int, steps: int) -> float:
    """Start a group of processes that measure, and return the median of a step in seconds."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    told = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.shared_step", "--work", net, "--steps", str(steps)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    out = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"a process that measured {net} failed")
    return float(out[0])


def main() -> None:
    """Measure, and print a line a net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--nets", default="2C2F,4C3F,6C2F")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.steps)
        return
    several, cores = options.processes, len(os.sched_getaffinity(0))
    if not 1 < several <= cores:
        parser.error(f"--processes is {several}; give at least 2, and no more than there are cores ({cores})")
    print(f"load {os.getloadavg()[0]:.1f}")
    for net in options.nets.split(","):
        found: dict[int, list[float]] = {1: [], several: []}
        for _ in range(options.rounds):
            for processes, times in found.items():
                times.append(1e3 * measure(net, processes, options.steps))
        best = {processes: min(times) for processes, times in found.items()}
        print(
            f"{net}, batch {NETS[net][1]}: 1 process {best[1]:.2f} ms, {several} processes {best[several]:.2f} ms, "
            f"ratio {best[several] / best[1]:.3f} (runs: {', '.join(f'{t:.1f}' for t in found[1])} | "
            f"{', '.join(f'{t:.1f}' for t in found[several])})",
            flush=True,
        )
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
