"""The PTX that Triton generates for margin and its losses, run in a simulator, called as torch calls it on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from margin_checks import EPSILON, LAMBDA, check_loss, check_margin, problem, with_specials
from planting import planted

from gloro_fast import _extension

pytest.importorskip("triton")
from gloro_fast.kernels import margin as margin_kernel
from simulated_gpu import gpu, needs_simulator

pytestmark = [
    needs_simulator,
    pytest.mark.skipif(not _extension.available(), reason=f"compiled ops: {_extension.why_not()}"),
]


def as_on_a_gpu(op: str) -> Any:
    """What torch's dispatcher has for the op on CUDA."""
    overload = getattr(torch.ops.gloro_fast, op).default
    return partial(overload._op_dk, torch._C.DispatchKey.CUDA)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((70, 10), torch.float32),
        ((70, 10), torch.bfloat16),
        ((5, 37), torch.bfloat16),
        ((5, 37), torch.float16),
        ((3, 1000), torch.float32),
    ],
)
def test_margin(shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits, differences, lipschitz = problem(*shape, dtype)
    with gpu():
        for f in (logits, with_specials(logits)):
            check_margin(as_on_a_gpu("margin"), (f, differences, lipschitz))


@pytest.mark.parametrize(
    ("shape", "dtype", "criterion"),
    [
        ((70, 10), torch.float32, 0),
        ((70, 10), torch.bfloat16, 2),
        ((5, 37), torch.float16, 1),
        ((5, 37), torch.bfloat16, 2),
        ((3, 1000), torch.float32, 1),
    ],
)
def test_loss(shape: tuple[int, int], dtype: torch.dtype, criterion: int) -> None:
    with gpu():
        check_loss(as_on_a_gpu("margin_loss"), problem(*shape, dtype), criterion)


@pytest.mark.parametrize("shape", [(128, 10), (8, 200), (4, 1000)])
def test_traffic(shape: tuple[int, int]) -> None:
    """At most 10 % more than every byte once; rows of D count as often as different ones are read."""
    logits, differences, lipschitz = problem(*shape)
    labels = torch.arange(shape[0]) % shape[1]
    with gpu() as simulated:
        as_on_a_gpu("margin")(logits, differences, lipschitz, EPSILON)
        as_on_a_gpu("margin_loss")(logits, differences, lipschitz, EPSILON, labels, 1, LAMBDA)
    for launch in simulated.launches:
        needed = launch.traffic["load_unique_bytes"] + launch.traffic["store_unique_bytes"]
        assert launch.bytes_requested <= 1.10 * needed


def test_an_access_out_of_bounds_is_caught() -> None:
    broken = planted("margin", "margin_rows", "(first_row + row < rows) & (column < classes)", "column < classes + row")
    with gpu(), pytest.raises(Exception, match="out of bounds"):
        broken.margin(*problem(5, 37), EPSILON)


def test_rows_that_two_programs_write_are_caught() -> None:
    broken = planted("margin", "margin_rows", "tl.program_id(0).to(tl.int64) * ROWS", "tl.program_id(0).to(tl.int64)")
    assert broken.margin_rows is not margin_kernel.margin_rows
    with gpu(), pytest.raises(AssertionError):
        check_margin(broken.margin, problem(40, 37))
