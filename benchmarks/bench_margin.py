"""From the last hidden layer to the loss: logits, distances of the head's rows, bottom, TRADES, all gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import compiled, eager
from benchmarks.budget import Budget
from benchmarks.conftest import Measure
from benchmarks.interleaving import Job
from benchmarks.networks import LAMBDA
from benchmarks.record import SPEEDUP, Comparison
from gloro_fast import GloRoNet
from gloro_fast.losses import TradesLoss

FEATURES, BATCH, EPSILON = 32, 512, 0.3


@pytest.mark.parametrize("classes", [10, 200, 1000])
def test_margin_and_loss(classes: int, measure: Measure, device: torch.device, budget: Budget) -> None:
    features = torch.randn(BATCH, FEATURES, device=device, requires_grad=True)
    labels = torch.randint(classes, (BATCH,), device=device)
    # A net of a head alone: its K is 1, and all else is what every step does after its last hidden layer.
    net = GloRoNet(nn.Linear(FEATURES, classes), EPSILON, (FEATURES,)).to(device).train()
    head: nn.Linear = net.module  # type: ignore[assignment]
    criterion = TradesLoss(LAMBDA)
    one = torch.ones((), device=device)

    def eager_loss() -> Tensor:
        logits = F.linear(features, head.weight, head.bias)
        bottom = eager.bottom_logit(logits, head.weight, one, EPSILON)
        return eager.trades(logits, bottom, labels, LAMBDA)

    def with_gradients(loss: Job) -> Job:
        def job() -> None:
            features.grad = head.weight.grad = head.bias.grad = None
            loss().backward()  # type: ignore[attr-defined]

        return job

    contenders = {
        "gloro_fast": with_gradients(lambda: net(features, labels, criterion)),
        "eager": with_gradients(eager_loss),
    }
    left_out: dict[str, str] = {}
    compiled.add_compiled(
        contenders,
        left_out,
        lambda: with_gradients(torch.compile(eager_loss, dynamic=False)),
        budget=budget,
        here=classes == 200,
    )
    measure(
        "head, margin and loss with gradients",
        f"{classes} classes, batch {BATCH}, {FEATURES} features",
        contenders,
        [Comparison("eager", SPEEDUP), Comparison(compiled.NAME, SPEEDUP)],
        described={
            "gloro_fast": "net(x, labels, TradesLoss) of a net that is a head alone, metrics counted",
            "eager": "linear, cdist, scatter and max, closed-form TRADES; no metrics",
            compiled.NAME: "the eager form compiled",
        },
        seconds=4,
        repeat=10 if classes <= 200 else 1,
        left_out=left_out,
    )
