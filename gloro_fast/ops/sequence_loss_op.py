"""The mean loss of a batch through a net that is a sequence of layers: bound, margin and criterion together.

Each of the ops that it is made of is a function of autograd by itself, which keeps the thread that feeds a GPU busy for
some 20 microseconds. As one function they take 110 microseconds less of a step of 2C2F.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops import product as _product
from gloro_fast.ops.eager_function import EagerFunction
from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.head_differences_op import forward as _differences
from gloro_fast.ops.head_differences_op import gradient as _gradient_of_differences
from gloro_fast.ops.head_differences_op import head_differences_reference
from gloro_fast.ops.head_differences_op import runs_compiled as runs_head
from gloro_fast.ops.margin_loss_op import CRITERIA, margin_loss_reference
from gloro_fast.ops.margin_loss_op import forward as _losses
from gloro_fast.ops.margin_loss_op import gradients as _gradients_of_losses
from gloro_fast.ops.margin_op import runs_compiled as runs_margin
from gloro_fast.ops.power_iteration_op import describe, enough, power_iteration_reference


class SequenceLoss(NamedTuple):
    """The loss of a batch, differentiable, and what is left beside it, constants to autograd.

    Attributes:
        loss: scalar, the mean over the batch.
        prediction: (B,) int64.
        certified: (B,) bool.
        lipschitz: scalar, the estimate of K.
        iterates: L iterates, as ``power_iteration`` gives them.
    """

    loss: Tensor
    prediction: Tensor
    certified: Tensor
    lipschitz: Tensor
    iterates: list[Tensor]


def sequence_loss_reference(
    logits: Tensor,
    head: Tensor,
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
    factor: float,
    epsilon: Tensor,
    labels: Tensor,
    criterion: str,
    lam: Tensor,
) -> SequenceLoss:
    """Compose the ops, in plain PyTorch.

    Args:
        logits: (B, m) class logits, float32.
        head: (m, d), the rows of the last layer, float32.
        weights: L weights of the layers before it, as for ``power_iteration``, float32.
        v: L iterates.
        geometries: L geometries.
        iterations: power iterations T >= 0.
        factor: what the product of the spectral norms is multiplied by to give K.
        epsilon: 0-dim float64, l2 radius >= 0.
        labels: (B,) int64 in [0, m).
        criterion: as for ``margin_loss``.
        lam: 0-dim float64.

    Returns:
        The loss, with gradients to ``logits``, ``head`` and ``weights``, and the rest.
    """
    sigma, iterates, _ = power_iteration_reference(weights, v, geometries, iterations)
    lipschitz = _product.product_reference(sigma) * factor
    differences = head_differences_reference(head)
    losses, prediction, certified = margin_loss_reference(
        logits, differences, lipschitz, epsilon, labels, criterion, lam
    )
    return SequenceLoss(losses.mean(), prediction, certified, lipschitz.detach(), iterates)


def sequence_loss(
    logits: Tensor,
    head: Tensor,
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
    factor: float,
    epsilon: Tensor,
    labels: Tensor,
    criterion: str,
    lam: Tensor,
) -> SequenceLoss | None:
    """Return the loss and all gradients as the ops one after the other give them, to the bit.

    Arguments and results are those of :func:`sequence_loss_reference`; a gradient that is to be differentiated again is
    that of the reference.

    Returns:
        None where one of the ops does not run compiled, a compiler traces, or something is not float32: the ops are to
        be called one by one there.
    """
    if torch.compiler.is_compiling() or not extension.available():
        return None
    if any(tensor.dtype != torch.float32 for tensor in (logits, head, *weights)):
        return None
    if not (runs_head(head) and runs_margin("margin_loss", logits, head, head)):
        return None
    layers = describe(weights, v, geometries)
    if layers is None:
        return None
    left: list[Any] = []
    settings = (layers, geometries, iterations, factor, CRITERIA.index(criterion), enough(layers, logits.device))
    loss = _SequenceLoss.apply(left, settings, v, epsilon, labels, lam, logits, head, *weights)
    return SequenceLoss(loss, *left)


class _SequenceLoss(EagerFunction):
    @staticmethod
    def forward(
        ctx: Any,
        left: list[Any],
        settings: tuple[list[int], Sequence[Geometry], int, float, int, int],
        v: Sequence[Tensor],
        epsilon: Tensor,
        labels: Tensor,
        lam: Tensor,
        logits: Tensor,
        head: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        layers, _, iterations, factor, criterion, multiprocessors = settings
        with torch._C._AutoDispatchBelowAutograd():
            sigma, right, u = torch.ops.gloro_fast.power_iteration.default(
                weights, v, layers, iterations, multiprocessors=multiprocessors
            )
            product = sigma.prod()
            lipschitz = product if factor == 1.0 else product * factor
            differences = _differences(head)
            losses, prediction, certified, *shares = _losses(
                logits, differences, lipschitz, epsilon, labels, criterion, lam
            )
            loss: Tensor = losses.mean()
        left += (prediction, certified, lipschitz, right)
        ctx.settings = settings
        ctx.save_for_backward(
            logits, head, epsilon, labels, lam, sigma, product, lipschitz, differences, prediction, *shares,
            *weights, *right, *u,
        )  # fmt: skip
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved: Sequence[Tensor] = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the gradient is to be differentiated, so it needs a graph
            return (None,) * 6 + _gradients_to_differentiate(ctx, grad, saved)
        (
            logits, head, _, _, _, sigma, product, lipschitz, differences, prediction,
            share_of_logits, share_of_bottom, runner_up, *rest,
        ) = saved  # fmt: skip
        epsilon, count = saved[2], len(rest) // 3
        layers, _, _, factor, *_ = ctx.settings
        with torch._C._AutoDispatchBelowAutograd():
            of_logits, of_differences, of_lipschitz = _gradients_of_losses(
                (grad / len(logits)).expand(len(logits)),
                logits, share_of_logits, share_of_bottom, prediction, runner_up, differences, lipschitz, epsilon,
                ctx.needs_input_grad[7],
            )  # fmt: skip
            of_product = of_lipschitz if factor == 1.0 else of_lipschitz * factor
            of_sigma = _product.gradient(of_product, sigma, product)
            of_weights = torch.ops.gloro_fast.power_iteration_backward.default(
                of_sigma, rest[count : 2 * count], rest[2 * count :], layers
            )
            of_head = _gradient_of_differences(of_differences, head, differences) if ctx.needs_input_grad[7] else None
        return None, None, None, None, None, None, of_logits, of_head, *of_weights


def _gradients_to_differentiate(ctx: Any, grad: Tensor, saved: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of logits, head and weights through the reference, at the iterates that were found."""
    logits, head, epsilon, labels, lam = saved[:5]
    rest = saved[13:]
    count = len(rest) // 3
    _, geometries, _, factor, criterion, _ = ctx.settings
    needed = ctx.needs_input_grad[6:]
    inputs = (logits, head, *rest[:count])
    loss = sequence_loss_reference(
        logits, head, rest[:count], rest[count : 2 * count], geometries, 0, factor, epsilon, labels,
        CRITERIA[criterion], lam,
    ).loss  # fmt: skip
    found = iter(
        torch.autograd.grad(
            loss, [tensor for tensor, need in zip(inputs, needed, strict=True) if need], grad, create_graph=True
        )
    )
    return tuple(next(found) if need else None for need in needed)
