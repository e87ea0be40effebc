"""How much a process grows by training: run as a program, it trains a few steps and prints the bytes.

    python -m benchmarks.resident_memory 2C2F gloro_fast cpu

What counts is the largest resident set while training, above the resident set after all imports.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gloro import GloRoStep
from benchmarks.interleaving import Job
from benchmarks.networks import NETWORKS
from benchmarks.stock import Settings, StandardStep

OURS = "gloro_fast"
CONTENDERS: dict[str, Settings | None] = {
    OURS: None,
    "stock, NCHW": Settings(inplace=True, fused=True),
    "stock, channels_last": Settings(channels_last=True, inplace=True, fused=True),
}
_STEPS = 6
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def available() -> bool:
    """Return whether the system tells the largest resident set since a moment of one's choice."""
    return _STATUS.exists() and _CLEAR.exists()


def described() -> dict[str, str]:
    """Say what each contender is."""
    return {
        contender: f"standard ReLU training, {settings}" if settings else "Trainer.step: MinMax, TRADES-KL, T = 5"
        for contender, settings in CONTENDERS.items()
    }


def grown_bytes(network: str, contender: str, device: torch.device) -> int:
    """Train in a fresh process.

    Args:
        network: name of the network.
        contender: one of ``CONTENDERS``.
        device: where to train.

    Returns:
        How far the process's resident set rose above that after its imports.
    """
    command = [sys.executable, "-m", "benchmarks.resident_memory", network, contender, str(device)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(network_name: str, contender: str, device_name: str) -> None:
    """Train and print the bytes."""
    imported = _kilobytes("VmRSS")
    # The largest resident set counts from here, not from what imports once needed.
    _CLEAR.write_text("5")
    network, device = NETWORKS[network_name], torch.device(device_name)
    settings = CONTENDERS[contender]
    if settings is None:
        step: Job = GloRoStep(network, device)
    else:
        batch = network.data(network.batch_size).train
        step = StandardStep(network, settings, (batch.images / 255).to(device), batch.labels.to(device))
    for _ in range(_STEPS):
        step()
    print((_kilobytes("VmHWM") - imported) * 1024)


def _kilobytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
