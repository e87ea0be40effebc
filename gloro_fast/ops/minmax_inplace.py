"""MinMax that writes over its input: for a tensor that nobody else reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.eager_function import EagerFunction
from gloro_fast.ops.minmax_op import _backward, check_arguments, minmax, needs_gradient, runs_compiled


def minmax_(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Write the sorted channel pairs of ``x + bias`` over ``x``; otherwise as :func:`gloro_fast.ops.minmax`.

    The rules are those of PyTorch's own in-place ops: autograd refuses the backward pass of whoever needs the
    overwritten values. One bit a pair is kept for the backward pass. Traced, or where ``x`` is neither contiguous
    nor channels_last, the result is computed apart and copied over ``x``; a compiler leaves the copy out where it
    can.

    Args:
        x: (B, C) or (B, C, ...), any float type, C even.
        bias: (C,), added to the channels first; taken in the type of ``x``.

    Returns:
        ``x`` itself.

    Raises:
        ArchitectureError: C is odd, ``x`` has no channel dimension, or ``bias`` does not fit.
        RuntimeError: ``x`` is a leaf that requires grad, or a view of one.
    """
    check_arguments(x, bias)
    if torch.compiler.is_compiling() or not runs_compiled(x) or not _is_dense(x):
        return x.copy_(minmax(x, bias)[0])
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    if needs_gradient(x, bias):
        _refuse_leaf(x)
        result: Tensor = _MinMaxInplace.apply(x, bias)
        return result
    _write_over(x, bias)
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return x


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _refuse_leaf(x: Tensor) -> None:
    """What autograd checks after the fact, before the values are gone."""
    base = x._base if x._is_view() else x
    if base is not None and base.is_leaf and base.requires_grad:
        what = "x is" if base is x else "x is a view of"
        raise RuntimeError(f"minmax_: {what} a leaf that requires grad, which cannot be written over; use minmax")


class _MinMaxInplace(EagerFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        mask = _write_over(x, bias)
        ctx.mark_dirty(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask)
        ctx.with_bias = ctx.needs_input_grad[1]
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if grads[0] is None else _backward(ctx, grads[0])


def _fake_minmax_(x: Tensor, bias: Tensor | None = None) -> Tensor:
    mask: Tensor = torch.ops.gloro_fast.minmax.default(x, bias)[1]
    return mask


if extension.available():
    dispatch.implement("minmax_", "minmax")
    _write_over = dispatch.eager("minmax_")
    torch.library.register_fake("gloro_fast::minmax_", _fake_minmax_)
