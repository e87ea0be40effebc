"""Every Triton kernel compiles for every architecture, without spills, to what docs/triton_resources.json records.

After a change that is meant: ``python tests/kernels/test_triton_resources.py`` writes the table again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
from compiled_resources import global_accesses, resources
from gloro_fast.kernels import (
    fingerprint,
    head_difference_bounds,
    head_differences,
    image_codes,
    margin,
    margin_loss,
    minmax,
    product,
    statistics,
    verdict,
)
from simulated_gpu import gpu

TABLE = Path(__file__).resolve().parents[2] / "docs" / "triton_resources.json"
TRADES_CE = 2
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


def minmax_of(memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    """Large enough for whole tiles everywhere; nothing touches the memory."""
    x = torch.empty(3072, 64, 32, 32, dtype=dtype, memory_format=memory_format)
    _, mask = minmax.minmax(x, torch.empty(64, dtype=dtype))
    minmax.minmax_backward(x, mask, True)


def margin_of(classes: int, dtype: torch.dtype) -> None:
    logits, differences, lipschitz = (
        torch.zeros(512, classes, dtype=dtype),
        torch.zeros(classes, classes),
        torch.zeros(()),
    )
    number, labels = torch.zeros((), dtype=torch.float64), torch.zeros(512, dtype=torch.int64)
    bounds = differences, lipschitz, number
    margin.margin(logits, *bounds)
    loss, prediction, _, *shares, runner_up = margin_loss.margin_loss(logits, *bounds, labels, TRADES_CE, number)
    margin_loss.margin_loss_backward(loss, logits, *shares, prediction, runner_up, *bounds, True)


def head_differences_of(classes: int, dtype: torch.dtype) -> None:
    weight, square = torch.zeros(classes, 512, dtype=dtype), torch.zeros(classes, classes)
    head_differences.head_differences(weight)
    head_differences.head_differences_backward(square, weight, square)


def head_bounds_of(classes: int, dtype: torch.dtype) -> None:
    head_difference_bounds.head_difference_bounds(torch.zeros(classes, 512, dtype=dtype))


def one_program_each() -> None:
    count = torch.zeros(512, dtype=torch.int64)
    product.product_backward(torch.zeros(()), torch.zeros(6))
    statistics.count(count, count, count.bool())
    scalars = (torch.zeros(()), count[0], count[0], torch.zeros(()))
    statistics.record_(torch.zeros(9, 4, dtype=torch.float64), count[:1], *scalars)


def certificate_of(classes: int, dtype: torch.dtype) -> None:
    shares = fingerprint.fingerprint_shares([torch.zeros(3, dtype=dtype)])
    codes = image_codes.image_codes(torch.zeros(512, 3, 32, 32, dtype=dtype))
    bounds = torch.zeros(classes, classes, dtype=torch.float64)
    verdict.verdict(torch.zeros(512, classes, dtype=dtype), bounds, 1.3, 0.3, codes, shares, shares[:, 0])


CALLS: dict[str, Callable[[], None]] = {
    "minmax, contiguous, bfloat16": partial(minmax_of, torch.contiguous_format, torch.bfloat16),
    "minmax, contiguous, float16": partial(minmax_of, torch.contiguous_format, torch.float16),
    "minmax, channels_last, bfloat16": partial(minmax_of, torch.channels_last, torch.bfloat16),
    "minmax, channels_last, float16": partial(minmax_of, torch.channels_last, torch.float16),
    "margin and TRADES-CE, 10 classes, float32": partial(margin_of, 10, torch.float32),
    "margin and TRADES-CE, 1000 classes, bfloat16": partial(margin_of, 1000, torch.bfloat16),
    "margin and TRADES-CE, 4096 classes, bfloat16": partial(margin_of, 4096, torch.bfloat16),
    "head differences, 10 classes, float32": partial(head_differences_of, 10, torch.float32),
    "head differences, 1000 classes, bfloat16": partial(head_differences_of, 1000, torch.bfloat16),
    "head difference bounds, 10 classes, float32": partial(head_bounds_of, 10, torch.float32),
    "head difference bounds, 1000 classes, bfloat16": partial(head_bounds_of, 1000, torch.bfloat16),
    "head difference bounds, 1000 classes, float64": partial(head_bounds_of, 1000, torch.float64),
    "product and statistics": one_program_each,
    "certificates, 10 classes, float32": partial(certificate_of, 10, torch.float32),
    "certificates, 1000 classes, float64": partial(certificate_of, 1000, torch.float64),
    "certificates, 4096 classes, float32": partial(certificate_of, 4096, torch.float32),
}
CASES = [
    (name, arch)
    for name in CALLS
    for arch in (ARCHITECTURES if "4096" not in name else ARCHITECTURES[::5])  # compiling takes time
]


def compiled(call: Callable[[], None], arch: int) -> list[Any]:
    """The kernels that a call launches, for shapes of networks, with the launch table's entries."""
    with gpu(arch, run=False) as simulated:
        call()
    return [launch.kernel for launch in simulated.launches]


def row(name: str, arch: int) -> dict[str, dict[str, int]]:
    return {kernel.metadata.name: resources(kernel) for kernel in compiled(CALLS[name], arch)}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(TABLE.read_text())
    return known


@pytest.mark.parametrize(("name", "arch"), CASES)
def test_resources_are_those_recorded(recorded: dict[str, Any], name: str, arch: int) -> None:
    found = row(name, arch)
    assert all(kernel["spilled bytes"] == 0 for kernel in found.values())
    if recorded["triton"] == triton.__version__:
        assert found == recorded["kernels"][name][f"sm_{arch}"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_accesses_of_minmax_are_16_bytes_wide(memory_format: torch.memory_format, dtype: torch.dtype) -> None:
    for kernel in compiled(partial(minmax_of, memory_format, dtype), 86):
        widths = global_accesses(kernel)
        assert widths[16] >= 0.95 * widths.total()


@pytest.mark.parametrize(("classes", "dtype"), [(16, torch.float32), (1000, torch.bfloat16)])
def test_accesses_of_margin_to_logits_gradients_and_d_are_16_bytes_wide(classes: int, dtype: torch.dtype) -> None:
    """What is narrower is K, epsilon, lambda, the label, and what a row has one of: four results, or five of a loss."""
    narrow = {"margin_rows": 2 + 4, "loss_rows": 4 + 5}
    for kernel in compiled(partial(margin_of, classes, dtype), 86):
        if kernel.metadata.name in narrow:  # the gradients gather: their traffic is counted in the simulator
            widths = global_accesses(kernel)
            assert widths.total() - widths[16] <= narrow[kernel.metadata.name]


if __name__ == "__main__":
    table: dict[str, dict[str, Any]] = {}
    for name, arch in CASES:
        table.setdefault(name, {})[f"sm_{arch}"] = row(name, arch)
    TABLE.write_text(json.dumps({"triton": triton.__version__, "kernels": table}, indent=1) + "\n")
