"""MinMax with bias, forward and backward, on tensors beyond the caches, beside copying the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import compiled
from benchmarks.budget import Budget
from benchmarks.conftest import Measure
from benchmarks.eager import PairSort
from benchmarks.interleaving import Job
from benchmarks.record import RATE, SPEEDUP, Comparison
from gloro_fast import ops

# 64 MiB of float32 and a little more; the second has odd sides, so that no row fills whole vectors.
SHAPES = {"even sides": (512, 32, 32, 32), "odd sides": (528, 32, 33, 31)}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Op = Callable[[Tensor, Tensor], Tensor]


class _Source(torch.autograd.Function):
    """Brings a buffer into a graph as an inner node, which an op may then overwrite; nothing is copied."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, buffer: Tensor) -> Tensor:
        return buffer.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None]:
        return None, None


@pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "in-place"])
@pytest.mark.parametrize("sides", SHAPES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_minmax(
    memory_format: str, sides: str, inplace: bool, measure: Measure, device: torch.device, budget: Budget
) -> None:
    op = ops.minmax_ if inplace else _out_of_place
    x, gradient, target = (_drawn(SHAPES[sides], memory_format, device) for _ in range(3))
    channels = x.shape[1]

    def both_ways(op: Op) -> Job:
        bias = torch.zeros(channels, device=device, requires_grad=True)
        anchor = torch.zeros((), device=device, requires_grad=True)

        def job() -> None:
            bias.grad = None
            op(_Source.apply(anchor, x), bias).backward(gradient)  # type: ignore[no-untyped-call]

        return job

    def copy_new() -> None:
        x.clone()
        gradient.clone()

    def copy_over() -> None:
        target.copy_(x)
        target.copy_(gradient)

    copy = "copy, in place" if inplace else "copy"
    contenders: dict[str, Job] = {
        "gloro_fast": both_ways(op),
        copy: copy_over if inplace else copy_new,
        "eager": both_ways(_eager),
    }
    left_out: dict[str, str] = {}
    if not inplace:
        compiled.add_compiled(
            contenders,
            left_out,
            lambda: both_ways(torch.compile(_eager, dynamic=False)),
            budget=budget,
            here=sides == "even sides",
        )
    # Read x, write y; read the gradient, write the gradient: what a copy of both tensors moves as well.
    moved = 4.0 * x.numel() * x.itemsize
    measure(
        "minmax with bias, both ways",
        f"{'x'.join(map(str, x.shape))}, {memory_format}, {'in place' if inplace else 'out of place'}",
        contenders,
        [Comparison(copy, RATE, 0.8), Comparison("eager", SPEEDUP), Comparison(compiled.NAME, SPEEDUP)],
        described={
            "gloro_fast": f"minmax {'in place' if inplace else 'out of place'}",
            "copy": "x.clone(), gradient.clone(): the same bytes into new memory",
            "copy, in place": "copy_ of x and of the gradient: the same bytes into memory at hand",
            "eager": "add, pairs viewed, where, stack",
            compiled.NAME: "the eager form compiled",
        },
        seconds=4,
        work={"gloro_fast": moved, copy: moved},
        work_unit="B",
        left_out=left_out,
    )


def _out_of_place(x: Tensor, bias: Tensor) -> Tensor:
    return ops.minmax(x, bias)[0]


def _eager(x: Tensor, bias: Tensor) -> Tensor:
    sort: Tensor = PairSort()(x + bias[:, None, None])
    return sort


def _drawn(shape: tuple[int, ...], memory_format: str, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device).contiguous(memory_format=FORMATS[memory_format])
