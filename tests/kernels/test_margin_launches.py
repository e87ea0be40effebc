"""How many kernels the margin, its losses and the check of labels launch on a GPU, and that none of it waits.

Fake tensors stand for those of a GPU; Triton's launches are counted instead of run.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast.losses import CrossEntropyLoss, MarginCriterion, TradesLoss
from gloro_fast.native import dispatch, extension
from gloro_fast.ops.labels import check_labels
from gloro_fast.ops.margin_loss_op import margin_loss
from gloro_fast.ops.margin_op import margin

pytest.importorskip("triton")
import triton
from gloro_fast.kernels import margin as margin_kernel
from gloro_fast.kernels import margin_loss as loss_kernel
from simulated_gpu import gpu

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
CUDA = torch.device("cuda", 0)
ROWS, CLASSES = 512, 10
_FREE = {
    "device",
    "empty",
    "empty_like",
    "new_empty",
    "view",
    "expand",
    "detach",
    "unsqueeze",
    "select",
    "slice",
    "alias",
}
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "item", "lift_fresh", "equal"}


class Launches(TorchDispatchMode):
    """Counts what launches a kernel, by name; refuses what waits for the device or copies from the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        assert name not in _WAITS, f"{name} waits for the device"
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        assert all(tensor.device == CUDA for tensor in tensors), f"{name} is between devices"
        if tensors and name not in _FREE:
            self.counts[name] += 1
        return result


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    def launch(self: Any, *_: Any, **__: Any) -> None:
        counted.counts[self.__name__] += 1

    monkeypatch.setattr(dispatch, "why_not", lambda op: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    with gpu(), FakeTensorMode(), torch.no_grad(), Launches() as counted:
        yield counted


def bounds(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, D, K and epsilon."""
    f, d = torch.empty(ROWS, CLASSES, dtype=dtype, device=CUDA), torch.empty(CLASSES, CLASSES, device=CUDA)
    return f, d, torch.empty((), device=CUDA), torch.empty((), dtype=torch.float64, device=CUDA)


def rows(dtype: torch.dtype) -> Tensor:
    return torch.empty(ROWS, dtype=dtype, device=CUDA)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_launch_forward_and_one_backward(launches: Launches, dtype: torch.dtype) -> None:
    f, d, k, number = bounds(dtype)
    labels = rows(torch.int64)
    _, j, _, i = margin_kernel.margin(f, d, k, number)
    assert launches.counts == {"margin_rows": 1}
    launches.counts.clear()
    found = margin_kernel.margin_backward(rows(torch.float32), f, j, i, d, k, number, True)
    assert launches.counts == {"margin_gradients": 1}
    assert [tensor.dtype for tensor in found] == [dtype, torch.float32, torch.float32]
    launches.counts.clear()
    for criterion in range(3):
        _, j, _, *shares, i = loss_kernel.margin_loss(f, d, k, number, labels, criterion, number)
    assert launches.counts == {"loss_rows": 3}
    launches.counts.clear()
    mean = torch.empty((), device=CUDA).expand(ROWS)  # what the mean's backward pass gives
    found = loss_kernel.margin_loss_backward(mean, f, *shares, j, i, d, k, number, True)
    assert launches.counts == {"margin_gradients": 1}
    assert [(tensor.dtype, tensor.shape) for tensor in found] == [
        (dtype, f.shape), (torch.float32, d.shape), (torch.float32, k.shape)
    ]  # fmt: skip


@pytest.mark.parametrize("criterion", [CrossEntropyLoss(), TradesLoss(1.5)], ids=["cross entropy", "TRADES"])
def test_a_captured_loss_is_one_launch_and_its_mean(
    launches: Launches, monkeypatch: pytest.MonkeyPatch, criterion: MarginCriterion
) -> None:
    *arguments, epsilon = bounds()
    monkeypatch.setitem(criterion._lam._tensors, CUDA, torch.empty_like(epsilon))
    for capturing in (False, True):
        for what in ("is_initialized", "is_current_stream_capturing"):
            monkeypatch.setattr(torch.cuda, what, lambda capturing=capturing: capturing)
        launches.counts.clear()
        losses, *_ = criterion.with_margin(*arguments, epsilon, rows(torch.int64))
        criterion.reduce(losses)
        # Eager, lambda is filled in for as long as it stays: of fake tensors none is kept.
        # Labels are looked at in the same launch.
        assert launches.counts == {"margin_loss": 1, "mean": 1} | ({} if capturing else {"scalar_tensor": 1})


def test_a_number_is_one_launch_more(launches: Launches) -> None:
    f, d, k, _ = bounds()
    margin(f, d, k, 0.3)
    assert launches.counts == {"margin": 1, "scalar_tensor": 1}


@pytest.mark.parametrize(("ignore_index", "count"), [(None, 4), (-100, 6)])
def test_labels_are_checked_in_a_few(launches: Launches, ignore_index: int | None, count: int) -> None:
    check_labels(rows(torch.int64), ROWS, CLASSES, ignore_index)
    assert launches.counts.total() == count
    assert launches.counts["_assert_async"] == 1


def test_labels_are_checked_where_no_kernel_does_it(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gloro_fast.ops.margin_loss_op"]
    monkeypatch.setattr(module, "runs_compiled", lambda *arguments: False)
    monkeypatch.setattr(module, "margin_loss_reference", lambda *arguments: None)
    f, d, k, epsilon = bounds()
    margin_loss(f, d, k, epsilon, rows(torch.int64), "ce")
    assert launches.counts["_assert_async"] == 1


@pytest.mark.parametrize(
    "planted",
    [
        lambda x: x.sum().item(),
        lambda x: x + torch.tensor(3.0, device=CUDA),
        lambda x: x.cpu(),
    ],
    ids=["item", "from_the_host", "to_the_host"],
)
def test_what_waits_is_caught(launches: Launches, planted: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError):
        planted(rows(torch.float32))
