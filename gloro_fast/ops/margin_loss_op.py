"""A batch's loss straight from its m logits: the margin, the criterion and all gradients in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.ops.cross_entropy_op import cross_entropy_reference
from gloro_fast.ops.labels import assert_classes, is_on_host
from gloro_fast.ops.margin_op import (
    fake_backward,
    gradients_to_differentiate,
    in_one_dtype,
    margin_reference,
    runs_compiled,
)
from gloro_fast.ops.registration import register
from gloro_fast.ops.scalar import as_scalar, constant
from gloro_fast.ops.trades_op import trades_reference

CRITERIA = ("ce", "trades-kl", "trades-ce")
"""The criteria by name; the compiled op takes the place in this tuple (csrc/cpu/margin_loss.h)."""


def margin_loss(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
    criterion: str,
    lam: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, prediction, certified) per row; see :func:`margin_loss_reference`.

    Runs compiled on the CPU and, but for float64, in Triton on the GPU: the forward pass leaves the derivatives of
    each row's loss, the backward pass scales them and adds up those of ``differences`` and ``lipschitz`` in an order
    that does not change. Same bits at every number of threads and in every run; ``certified`` has the reference's
    bits. Labels that are no classes raise on the CPU and, later, stop the process on a GPU. Elsewhere, within
    torch.func's transforms, and in a backward pass that is to be differentiated again, it is the reference.
    """
    _check(criterion)
    if runs_compiled("margin_loss", logits, differences, lipschitz):
        run: Callable[..., Any] = torch.ops.gloro_fast.margin_loss if torch.compiler.is_compiling() else _apply
        arguments = *in_one_dtype(logits, differences, lipschitz), as_scalar(epsilon, logits.device)
        loss, prediction, certified, *_ = run(
            *arguments, labels, CRITERIA.index(criterion), as_scalar(lam, logits.device)
        )
        return loss, prediction, certified
    if not is_on_host(labels):
        assert_classes(labels, logits.shape[-1])
    return margin_loss_reference(logits, differences, lipschitz, epsilon, labels, criterion, lam)


def margin_loss_reference(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    labels: Tensor,
    criterion: str,
    lam: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compose the margin and a criterion over the m + 1 logits, in plain PyTorch.

    Args:
        logits: (B, m) logits f of a floating dtype, m >= 2.
        differences: (m, m), ||w_i - w_j||_2 of the rows of the last layer.
        lipschitz: scalar tensor, the Lipschitz constant of everything before the last layer.
        epsilon: l2 radius, >= 0, in units of the input: a number, or a 0-dim float64 tensor, which gives the same bits;
            a constant to autograd.
        labels: (B,) int64 in [0, m).
        criterion: ``"ce"`` (``cross_entropy_reference``), ``"trades-kl"`` or ``"trades-ce"``
            (``trades_reference``).
        lam: weight of the robust term of TRADES, >= 0: a number or a tensor, as epsilon.

    Returns:
        loss: (B,), of the promoted dtype of the arguments, at least float32; with gradients to ``logits``,
            ``differences`` and ``lipschitz``.
        prediction: (B,) int64, the first index of the largest logit.
        certified: (B,) bool, ``radius > epsilon`` with the radius of ``margin_reference``.

    Raises:
        ConfigError: there is no such criterion.
    """
    _check(criterion)
    bottom, prediction, radius = margin_reference(logits, differences, lipschitz, epsilon)
    with_bottom = torch.cat([logits.to(bottom.dtype), bottom[:, None]], dim=1)
    if criterion == "ce":
        loss = cross_entropy_reference(with_bottom, labels)
    else:
        loss = trades_reference(with_bottom, labels, constant(lam), criterion.removeprefix("trades-"))
    return loss, prediction, radius > epsilon


def _check(criterion: str) -> None:
    if criterion not in CRITERIA:
        raise ConfigError(f"criterion is {criterion!r}; choose one of {', '.join(map(repr, CRITERIA))}")


# What follows tells torch of the compiled op: shapes for tracing, and the gradient.


def _fake_margin_loss(logits: Tensor, differences: Tensor, *_: Any) -> tuple[Tensor, ...]:
    rows, classes = logits.shape
    loss, share_of_bottom = differences.new_empty([rows]), differences.new_empty([rows])
    prediction, runner_up = (differences.new_empty([rows], dtype=torch.int64) for _ in range(2))
    certified = differences.new_empty([rows], dtype=torch.bool)
    return loss, prediction, certified, differences.new_empty([rows, classes]), share_of_bottom, runner_up


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, differences, lipschitz, epsilon, labels, ctx.criterion, lam = inputs
    _, prediction, _, share_of_logits, share_of_bottom, runner_up = output
    ctx.save_for_backward(
        logits, differences, lipschitz, epsilon, labels, lam, share_of_logits, share_of_bottom, prediction, runner_up
    )


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    logits, differences, lipschitz, epsilon, labels, lam, *shares = ctx.saved_tensors
    if torch.is_grad_enabled():
        arguments, rest = (logits, differences, lipschitz), (epsilon, labels, CRITERIA[ctx.criterion], lam)
        found = gradients_to_differentiate(margin_loss_reference, arguments, grad_loss, ctx, *rest)
        return *found, None, None, None, None
    with_differences = ctx.needs_input_grad[1]
    grad_logits, grad_differences, grad_lipschitz = gradients(
        grad_loss, logits, *shares, differences, lipschitz, epsilon, with_differences
    )
    grad_differences = grad_differences if with_differences else None
    return grad_logits, grad_differences, grad_lipschitz, None, None, None, None


forward, _apply = register("margin_loss", _fake_margin_loss, "margin_loss", save=_save, backward=_backward, outputs=3)
gradients, _ = register("margin_loss_backward", fake_backward, "margin_loss")
