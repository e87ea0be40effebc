"""Every Triton kernel compiles for every architecture, without spills, to what docs/triton_resources.json records.

After a change that is meant: ``python tests/kernels/test_triton_resources.py`` writes the table again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
from compiled_resources import global_accesses, resources
from gloro_fast.kernels import margin, margin_loss, minmax
from simulated_gpu import gpu

TABLE = Path(__file__).resolve().parents[2] / "docs" / "triton_resources.json"
TRADES_CE = 2
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


def minmax_planar(dtype: torch.dtype, with_bias: bool = True) -> None:
    x = torch.empty(1024, 64, 32, 32, dtype=dtype)
    _, mask = minmax.minmax(x, torch.empty(64, dtype=dtype) if with_bias else None)
    minmax.minmax_backward(x, mask, with_bias)


def minmax_interleaved(dtype: torch.dtype, with_bias: bool = True) -> None:
    x = torch.empty(1024, 64, 32, 32, dtype=dtype, memory_format=torch.channels_last)
    _, mask = minmax.minmax(x, torch.empty(64, dtype=dtype) if with_bias else None)
    minmax.minmax_backward(x, mask, with_bias)


def margin_of_rows(dtype: torch.dtype) -> None:
    logits, differences, lipschitz = torch.zeros(512, 1000, dtype=dtype), torch.zeros(1000, 1000), torch.zeros(())
    margin.margin(logits, differences, lipschitz, 0.3)
    margin_loss.margin_loss(logits, differences, lipschitz, 0.3, torch.zeros(512, dtype=torch.int64), TRADES_CE, 1.5)


CALLS: dict[str, Callable[[torch.dtype], None]] = {
    "minmax, contiguous": minmax_planar,
    "minmax, channels_last": minmax_interleaved,
    "margin and TRADES-CE, 1000 classes": margin_of_rows,
}


def compiled(call: Callable[[torch.dtype], None], arch: int, dtype: torch.dtype) -> list[Any]:
    """The kernels that a call launches, for shapes of networks, with the launch table's entries."""
    with gpu(arch, run=False) as simulated:
        call(dtype)
    return [launch.kernel for launch in simulated.launches]


def row(kernels: list[Any]) -> dict[str, dict[str, int]]:
    return {kernel.metadata.name: resources(kernel) for kernel in kernels}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(TABLE.read_text())
    return known


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", CALLS)
def test_resources_are_those_recorded(recorded: dict[str, Any], name: str, arch: int) -> None:
    """bfloat16, which takes the most registers."""
    found = row(compiled(CALLS[name], arch, torch.bfloat16))
    assert all(kernel["spilled bytes"] == 0 for kernel in found.values())
    if recorded["triton"] == triton.__version__:
        assert found == recorded["kernels"][name][f"sm_{arch}"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("minmax")])
def test_accesses_are_16_bytes_wide(name: str, dtype: torch.dtype) -> None:
    """At least 95 % of the bytes that a thread's accesses move; and of the accesses, but for one kernel 94.1 %."""
    for kernel in compiled(CALLS[name], 86, dtype):
        widths = global_accesses(kernel)
        assert 16 * widths[16] >= 0.95 * sum(width * count for width, count in widths.items())
        # The backward pass in the planar order loads its bits and stores its sums: 2 of 34 accesses.
        least = 0.94 if kernel.metadata.name == "planar_backward" else 0.95
        assert widths[16] >= least * widths.total()


if __name__ == "__main__":
    table = {
        name: {f"sm_{arch}": row(compiled(call, arch, torch.bfloat16)) for arch in ARCHITECTURES}
        for name, call in CALLS.items()
    }
    TABLE.write_text(json.dumps({"triton": triton.__version__, "type": "bfloat16", "kernels": table}, indent=1) + "\n")
