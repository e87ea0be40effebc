"""A batch's loss straight from its m logits: the margin, the criterion and all gradients in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.native import dispatch, extension
from gloro_fast.ops.cross_entropy_op import cross_entropy_reference
from gloro_fast.ops.eager_function import EagerFunction
from gloro_fast.ops.labels import assert_classes, is_on_host
from gloro_fast.ops.margin_op import gradients_to_differentiate, in_one_dtype, margin_reference, runs_compiled
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
    """Give (loss, prediction, certified) per row; see :func:`margin_loss_reference`.

    Runs compiled on the CPU and, but for float64, in Triton on the GPU: the forward pass leaves the derivatives of
    each row's loss, the backward pass scales them and adds up those of ``differences`` and ``lipschitz`` in an order
    that does not change. Same bits at every number of threads and in every run; ``certified`` has the reference's
    bits. Labels that are no classes raise on the CPU and, later, stop the process on a GPU. Elsewhere, within
    torch.func's transforms, and in a backward pass that is to be differentiated again, it is the reference.
    """
    _check(criterion)
    if runs_compiled("margin_loss", logits, differences, lipschitz):
        run: Callable[..., Any] = torch.ops.gloro_fast.margin_loss if torch.compiler.is_compiling() else _Eager.apply
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


def _fake_margin_loss(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: Tensor,
    labels: Tensor,
    criterion: int,
    lam: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, classes = logits.shape
    loss, share_of_bottom = differences.new_empty([rows]), differences.new_empty([rows])
    prediction, runner_up = (differences.new_empty([rows], dtype=torch.int64) for _ in range(2))
    certified = differences.new_empty([rows], dtype=torch.bool)
    return loss, prediction, certified, differences.new_empty([rows, classes]), share_of_bottom, runner_up


def _fake_margin_loss_backward(
    grad_loss: Tensor,
    logits: Tensor,
    share_of_logits: Tensor,
    share_of_bottom: Tensor,
    prediction: Tensor,
    runner_up: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: Tensor,
    with_differences: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size = differences.shape[0] if with_differences else 0
    return logits.new_empty(share_of_logits.shape), differences.new_empty([size, size]), torch.empty_like(lipschitz)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    _save_shares(ctx, inputs, output)


def _save_shares(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
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
    grad_logits, grad_differences, grad_lipschitz = _gradients(
        grad_loss, logits, *shares, differences, lipschitz, epsilon, with_differences
    )
    grad_differences = grad_differences if with_differences else None
    return grad_logits, grad_differences, grad_lipschitz, None, None, None, None


class _Eager(EagerFunction):
    """The op for eager mode: torch.library's autograd, which tracing needs, costs more than the kernels.

    Head and loss of 512 images of 10 classes, with all gradients, take 0.8 times as long by this and its likes.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        output: tuple[Tensor, ...] = _forward(*inputs)
        loss, prediction, certified, *_ = output
        ctx.set_materialize_grads(False)  # none of zeros for the outputs that have no gradient
        ctx.mark_non_differentiable(prediction, certified)
        _save_shares(ctx, inputs, output)
        return loss, prediction, certified

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None,) * len(ctx.needs_input_grad) if grads[0] is None else _backward(ctx, grads[0])


if extension.available():
    dispatch.implement("margin_loss", "margin_loss")
    dispatch.implement("margin_loss_backward", "margin_loss")
    _forward, _gradients = dispatch.eager("margin_loss"), dispatch.eager("margin_loss_backward")
    torch.library.register_fake("gloro_fast::margin_loss", _fake_margin_loss)
    torch.library.register_fake("gloro_fast::margin_loss_backward", _fake_margin_loss_backward)
    torch.library.register_autograd("gloro_fast::margin_loss", _backward, setup_context=_save)
