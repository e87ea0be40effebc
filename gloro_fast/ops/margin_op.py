"""The bottom logit, the prediction and the certified radius of a batch (Leino et al. 2021, Section 2.2, Appendix A.2).

This is the differentiable form that training uses, rounded to nearest. Certificates are signed by
``gloro_fast.ops.certify``, in float64 with directed rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.registration import register
from gloro_fast.ops.scalar import as_scalar, constant

_MOST_CLASSES_ON_GPU = 4096
"""A program holds whole rows (kernels/margin_tiles.py)."""


def margin_reference(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (bottom, prediction, radius), in plain PyTorch.

    With j = argmax f and K_ij = ``lipschitz * differences[j, i]``:
    bottom = max over i != j of (f_i + epsilon K_ij), radius = min over i != j of (f_j - f_i) / K_ij.
    The two agree bit for bit: ``bottom < f_j`` exactly where ``radius > epsilon``; where rounding alone would
    part them, the radius decides and bottom moves to the neighbouring number. A tie at the top, a non-finite
    logit and a non-finite K_ij give radius 0. K_ij = 0 with f_j > f_i puts no limit on the radius.

    Args:
        logits: (B, m) logits f of a floating dtype, m >= 2.
        differences: (m, m), ||w_i - w_j||_2 of the rows of the last layer.
        lipschitz: scalar tensor, the Lipschitz constant of everything before the last layer.
        epsilon: l2 radius, >= 0, in units of the input: a number, or a 0-dim float64 tensor, which gives the same bits;
            a constant to autograd.

    Returns:
        bottom: (B,), with gradients to the runner-up's logit, ``differences`` and ``lipschitz``.
        prediction: (B,) int64, the first index of the largest logit.
        radius: (B,), constant to autograd.
        bottom and radius have the promoted dtype of the arguments, at least float32.
    """
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    logits, differences, lipschitz = logits.to(dtype), differences.to(dtype), lipschitz.to(dtype)
    epsilon = constant(epsilon)
    with torch.no_grad():
        prediction = logits.argmax(dim=1)
        top = logits.gather(1, prediction[:, None])
        slope = lipschitz * differences[prediction]
        gap = top - logits
        other = torch.arange(logits.shape[1], device=logits.device) != prediction[:, None]
        finite = logits.isfinite().all(dim=1) & slope.isfinite().all(dim=1) & gap.isfinite().all(dim=1)
        radius = torch.where(gap > 0, gap / slope, 0.0).masked_fill(~other, torch.inf).amin(dim=1)
        radius = torch.where(finite, radius, 0.0)
        runner_up = (logits + epsilon * slope).masked_fill(~other, -torch.inf).argmax(dim=1)

    rows = torch.arange(len(logits), device=logits.device)
    bottom = logits[rows, runner_up] + epsilon * (lipschitz * differences[prediction, runner_up])
    return _reconcile(bottom, top.squeeze(1), radius > epsilon), prediction, radius


def margin(
    logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (bottom, prediction, radius); see :func:`margin_reference`, which it agrees with bit for bit.

    Runs compiled on the CPU and, but for float64, in Triton on the GPU, in one pass over the logits; elsewhere, and
    within torch.func's transforms, as the reference. Same bits at every number of threads and in every run.
    """
    if runs_compiled("margin", logits, differences, lipschitz):
        run: Callable[..., Any] = torch.ops.gloro_fast.margin if torch.compiler.is_compiling() else _apply
        bottom, prediction, radius, *_ = run(
            *in_one_dtype(logits, differences, lipschitz), as_scalar(epsilon, logits.device)
        )
        return bottom, prediction, radius
    return margin_reference(logits, differences, lipschitz, epsilon)


def runs_compiled(op: str, logits: Tensor, differences: Tensor, lipschitz: Tensor) -> bool:
    """Return whether the compiled op takes these arguments; warns, once, if only the extension is missing."""
    # torch.func (vmap, grad, jvp) does not differentiate ops of torch.library, but the reference it does.
    if torch._C._are_functorch_transforms_active():
        return False
    if logits.is_cuda and logits.device == differences.device == lipschitz.device:
        in_float32 = logits.dtype != torch.float64 and differences.dtype != torch.float64
        return in_float32 and logits.shape[1] <= _MOST_CLASSES_ON_GPU and dispatch.runs(op)
    if not all(tensor.device.type == "cpu" for tensor in (logits, differences, lipschitz)):
        return False
    extension.warn_if_missing()
    return extension.available()


def in_one_dtype(logits: Tensor, differences: Tensor, lipschitz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring the arguments to the type that the reference computes in; logits that the kernels widen stay half."""
    if logits.dtype == differences.dtype == lipschitz.dtype == torch.float32:
        return logits, differences, lipschitz
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    if logits.itemsize != 2 or dtype != torch.float32:
        logits = logits.to(dtype)
    return logits, differences.to(dtype), lipschitz.to(dtype)


def _reconcile(bottom: Tensor, top: Tensor, certified: Tensor) -> Tensor:
    """Move ``bottom`` strictly below ``top`` where certified and strictly above it elsewhere, gradient kept."""
    with torch.no_grad():
        below = torch.nextafter(top, torch.full_like(top, -torch.inf))
        above = torch.nextafter(top, torch.full_like(top, torch.inf))
        target = torch.where(certified, torch.minimum(bottom, below), torch.maximum(bottom, above))
        finite = bottom.isfinite()
    # The difference is 0: it carries the gradient, the value is the target's to the last bit.
    return target + torch.where(finite, bottom - bottom.detach(), 0.0)


# What follows tells torch of the compiled op: shapes for tracing, and the gradient.


def _fake_margin(logits: Tensor, differences: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    bottom, radius = differences.new_empty([rows]), differences.new_empty([rows])
    prediction, runner_up = (differences.new_empty([rows], dtype=torch.int64) for _ in range(2))
    return bottom, prediction, radius, runner_up


def fake_backward(grad: Tensor, logits: Tensor, *saved: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shapes of the gradients of logits, D and K, as the backward passes of margin and loss have them."""
    *_, differences, lipschitz, _, with_differences = saved
    classes = differences.shape[0]
    size = classes if with_differences else 0
    grad_logits = logits.new_empty([grad.shape[0], classes])
    return grad_logits, differences.new_empty([size, size]), torch.empty_like(lipschitz)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, prediction, _, runner_up = output
    ctx.save_for_backward(*inputs, prediction, runner_up)


def _backward(ctx: Any, grad_bottom: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *arguments, epsilon, prediction, runner_up = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *gradients_to_differentiate(margin_reference, arguments, grad_bottom, ctx, epsilon), None
    logits, differences, lipschitz = arguments
    with_differences = ctx.needs_input_grad[1]
    grad_logits, grad_differences, grad_lipschitz = _gradients(
        grad_bottom, logits, prediction, runner_up, differences, lipschitz, epsilon, with_differences
    )
    return grad_logits, grad_differences if with_differences else None, grad_lipschitz, None


def gradients_to_differentiate(
    reference: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor], grad: Tensor, ctx: Any, *rest: Any
) -> list[Tensor | None]:
    """Return the gradients of logits, D and K through the reference: for create_graph=True, in a backward pass.

    The compiled backward passes leave no graph, which a gradient penalty would take for a constant.
    """
    needed = [place for place in range(3) if ctx.needs_input_grad[place]]
    value = reference(*arguments, *rest)[0]
    found = torch.autograd.grad(value, [arguments[place] for place in needed], grad, create_graph=True)
    gradients: list[Tensor | None] = [None, None, None]
    for place, gradient in zip(needed, found, strict=True):
        gradients[place] = gradient
    return gradients


_, _apply = register("margin", _fake_margin, "margin", save=_save, backward=_backward, outputs=3)
_gradients, _ = register("margin_backward", fake_backward, "margin")
