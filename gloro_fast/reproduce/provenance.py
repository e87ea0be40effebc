"""Where a result comes from: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from gloro_fast._version import __version__
from gloro_fast.train.result import versions


def machine(device: str) -> dict[str, str]:
    """Return what a reader must know of the machine; no host name, no paths.

    Args:
        device: where the net ran.
    """
    described = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        **versions(),
    }
    if torch.device(device).type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def commit() -> str:
    """Return the commit of the checkout that the package runs from, with "+" if it was changed; else its version."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return f"version {__version__}"
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return f"version {__version__}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
