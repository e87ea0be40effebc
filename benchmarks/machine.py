"""What the numbers were taken on: processor, threads, versions, load."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

import gloro_fast
from gloro_fast.native import extension


def describe(device: torch.device, cpu: dict[str, Any]) -> dict[str, Any]:
    """Return what a reader must know of the machine; no host name, no paths.

    Args:
        device: what was measured.
        cpu: pytest-benchmark's description of the processor.
    """
    facts = extension.facts()
    described = {
        "device": str(device),
        "processor": cpu.get("brand_raw", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "l3_bytes": cpu.get("l3_cache_size"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "pytest_benchmark": version("pytest-benchmark"),
        "gloro_fast": gloro_fast.__version__,
        "compiled_ops": facts["available"],
        "why_not_compiled": facts["why_not"],
        "compiler": facts.get("compiler"),
        "simd": facts.get("simd"),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = f"{properties.name}, {properties.total_memory >> 20} MiB, CUDA {torch.version.cuda}"
    return described
