"""The losses on the margin: every criterion, logits of ordinary size and of 1e4, every type, and the gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.doctor.examination import check, difference
from gloro_fast.doctor.margin_check import EPSILON, gradients_differ, leaves_of, problems
from gloro_fast.ops.margin_loss_op import CRITERIA, margin_loss, margin_loss_reference

_LAMBDA = 1.5


@check("margin_loss")
def check_margin_loss(device: torch.device) -> Iterator[str | None]:
    """Yield for each problem, criterion and size of the logits whether loss and gradients are right."""
    for index, (logits, differences, lipschitz, name) in enumerate(problems()):
        labels = torch.arange(len(logits)) % logits.shape[1]
        for criterion in CRITERIA if index == 0 else CRITERIA[index % 3 :][:1]:  # each is compiled anew
            for scale in (1.0, 1e4):
                f = (logits.float() * scale).to(logits.dtype)
                case = f"{criterion}, logits of {scale:g}, {name}"
                yield _differs(case, (f, differences * scale, lipschitz), labels, criterion, scale, device)


def _differs(
    name: str,
    arguments: tuple[Tensor, Tensor, Tensor],
    labels: Tensor,
    criterion: str,
    scale: float,
    device: torch.device,
) -> str | None:
    exact, leaves = leaves_of(arguments, torch.float64), leaves_of(arguments, device)
    wanted, *_ = margin_loss_reference(*exact, EPSILON, labels, criterion, _LAMBDA)
    loss, prediction, certified = margin_loss(*leaves, EPSILON, labels.to(device), criterion, _LAMBDA)
    _, top, signed = margin_loss_reference(*arguments, EPSILON, labels, criterion, _LAMBDA)
    wrong = (
        difference(f"loss, {name}", loss, wanted.detach(), 1e-5, 2e-6 * scale)
        or difference(f"prediction, {name}", prediction, top)
        or difference(f"certified, {name}", certified, signed)
    )
    if wrong or scale > 1:  # where logits are 1e4 apart, rounding of bottom decides the gradient
        return wrong
    found = torch.autograd.grad(loss.sum(), leaves)
    return gradients_differ(name, found, torch.autograd.grad(wanted.sum(), exact))
