"""An op that is added by one description: shapes for tracing, both kinds of autograd, and a kernel for GPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.registration import register

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


def top_gap_reference(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the largest logit (B, m) is above the next one, and which that is."""
    values, indices = logits.topk(2, dim=1)
    return values[:, 0] - values[:, 1], indices[:, 1]


def top_gap(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Run compiled; as the reference."""
    run: Any = torch.ops.gloro_fast.top_gap if torch.compiler.is_compiling() else APPLY
    gap, runner_up, *_ = run(logits)
    return gap, runner_up


def _kernel(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    values, indices = logits.detach().topk(2, dim=1)
    return values[:, 0] - values[:, 1], indices[:, 1].clone(), indices[:, 0].clone()


def _fake(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = [logits.shape[0]]
    return logits.new_empty(rows), *(logits.new_empty(rows, dtype=torch.int64) for _ in range(2))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.classes = inputs[0].shape[1]
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> Tensor:
    runner_up, top = ctx.saved_tensors
    zeros = grad.new_zeros(len(grad), ctx.classes)
    return zeros.scatter(1, top[:, None], grad[:, None]).scatter(1, runner_up[:, None], -grad[:, None])


FORWARD: Any
APPLY: Any


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    global FORWARD, APPLY
    FORWARD, APPLY = register(
        "top_gap",
        _fake,
        "top_gap",
        "(Tensor logits) -> (Tensor gap, Tensor runner_up, Tensor top)",
        save=_save,
        backward=_backward,
        outputs=2,
    )
    torch.library.impl("gloro_fast::top_gap", "CPU", _kernel)
    kernels: Any = ModuleType("gloro_fast.kernels.top_gap")
    kernels.top_gap = _kernel
    sys.modules[kernels.__name__] = kernels
    yield
    del sys.modules[kernels.__name__], dispatch._implementations["gloro_fast::top_gap"]
    dispatch._in_triton.remove("top_gap")


def problem() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()


def test_eager_mode_gives_values_and_gradients() -> None:
    x = problem()
    gap, runner_up = top_gap(x)
    wanted, index = top_gap_reference(x)
    assert torch.equal(gap, wanted)
    assert torch.equal(runner_up, index)
    assert not runner_up.requires_grad
    (mine,), (theirs,) = (torch.autograd.grad(value.square().sum(), x) for value in (gap, wanted))
    torch.testing.assert_close(mine, theirs)
    assert torch.autograd.gradcheck(lambda x: top_gap(x)[0], [x])


def test_only_the_outputs_that_are_asked_for_leave() -> None:
    assert len(APPLY(problem())) == 2
    assert len(FORWARD(problem())) == 3


def test_torch_finds_the_description_sound() -> None:
    torch.library.opcheck(torch.ops.gloro_fast.top_gap.default, [problem()])


def test_a_compiler_traces_it() -> None:
    x = problem()
    gap, _ = torch.compile(top_gap, fullgraph=True, backend="aot_eager")(x)
    wanted, _ = top_gap_reference(x)
    (mine,), (theirs,) = (torch.autograd.grad(value.square().sum(), x) for value in (gap, wanted))
    torch.testing.assert_close(mine, theirs)


def test_a_gpu_runs_its_kernel() -> None:
    assert extension.has_kernel("top_gap", "cuda")
    assert dispatch.is_triton("top_gap")
    with FakeTensorMode():
        gap, *rest = torch.ops.gloro_fast.top_gap(torch.empty(5, 4, device="cuda"))
    assert gap.device.type == "cuda"
    assert [other.dtype for other in rest] == [torch.int64, torch.int64]
