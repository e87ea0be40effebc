"""Registers, shared memory, spills and the width of global accesses of what Triton compiled: from the machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def resources(kernel: Any) -> dict[str, int]:
    """Registers of a thread, its bytes of stack and local memory (0: no spills), shared memory of a block."""
    usage = _run("cuobjdump", "-res-usage", kernel.asm["cubin"])
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    assert found.keys() == {"REG", "STACK", "LOCAL"}, usage
    return {
        "registers": found["REG"],
        "spilled bytes": found["STACK"] + found["LOCAL"],
        "shared bytes": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
    }


def global_accesses(kernel: Any) -> Counter[int]:
    """How many loads and stores of global memory the machine code has, by their width in bytes."""
    sass = _run("nvdisasm", "-c", kernel.asm["cubin"])
    widths: Counter[int] = Counter()
    for operation in re.findall(r"\b(?:LDG|STG)\.[\w.]+", sass):
        narrow = re.search(r"\.[US](8|16)\b", operation)
        wide = re.search(r"\.(64|128|256)\b", operation)
        widths[int(wide[1]) // 8 if wide else int(narrow[1]) // 8 if narrow else 4] += 1
    return widths


def _run(tool: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [str(_TOOLS / tool), option, file.name], check=True, capture_output=True, text=True
        ).stdout
