"""The step that makes its weights twice is the same step."""

from __future__ import annotations

import pytest
import torch
from autograd_nodes import nodes_of
from torch import Tensor, nn

from benchmarks import orthogonal_step
from benchmarks.orthogonal_step import OURS, STOCK, TWICE, contenders
from gloro_fast.nn import CayleyLinear, MinMax


def test_all_three_train_and_two_of_them_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    backward = Tensor.backward

    def counted(loss: Tensor) -> None:
        made.append(nodes_of(loss).count("LinalgSolveExBackward0"))
        backward(loss)  # type: ignore[no-untyped-call]

    small = lambda: nn.Sequential(nn.Flatten(), CayleyLinear(16, 8), MinMax(), nn.Linear(8, 10))  # noqa: E731
    monkeypatch.setitem(orthogonal_step.NETS, "small", (small, (1, 4, 4)))
    monkeypatch.setattr(Tensor, "backward", counted)
    losses = {who: [float(step()) for _ in range(4)] for who, step in contenders("small", 8).items()}
    assert made == [1] * 4 + [2] * 4 + [1] * 4
    assert losses[OURS] == pytest.approx(losses[TWICE], rel=1e-4)
    assert losses[STOCK][-1] < losses[STOCK][0]
    assert losses[OURS] != losses[STOCK]
    assert torch.is_grad_enabled()
