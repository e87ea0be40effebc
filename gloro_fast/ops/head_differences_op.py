"""Distances between the rows of the last layer: D_ij = ||w_i - w_j||_2 (Leino et al. 2021, Appendix A.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.registration import register


def head_differences_reference(weight: Tensor) -> Tensor:
    """Return D by direct differences, in plain PyTorch.

    Args:
        weight: (m, d) weights of the last layer.

    Returns:
        (m, m) symmetric, zero on the diagonal; at least float32. Its gradient at D_ij = 0 is 0.
    """
    weight = weight if weight.itemsize >= 4 else weight.float()
    squares = (weight[:, None] - weight[None]).square().sum(dim=2)
    distinct = squares > 0
    return torch.where(distinct, torch.where(distinct, squares, 1.0).sqrt(), 0.0)


def head_differences(weight: Tensor) -> Tensor:
    """Return D by direct differences without an (m, m, d) tensor; arguments as for the reference.

    Runs compiled on the CPU, half of the symmetric D forward and only the pairs that a gradient reaches backward, and,
    but for float64, in Triton on the GPU, one launch each way. Elsewhere, and within torch.func's transforms, through
    ``torch.cdist`` in the mode that takes differences; the other, which it picks by itself above 25 rows, goes through
    w_i . w_j and loses all digits where rows are close. Same bits at every number of threads and in every run.
    """
    compiled = runs_compiled(weight)
    if weight.itemsize < 4 and not (compiled and weight.is_cuda):  # the kernels for GPUs widen what they load
        weight = weight.float()
    if compiled:
        run: Callable[..., Any] = torch.ops.gloro_fast.head_differences if torch.compiler.is_compiling() else _apply
        differences: Tensor = run(weight)
        return differences
    return torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")


def runs_compiled(weight: Tensor) -> bool:
    """Return whether the compiled op takes ``weight``, but for its type on the CPU."""
    if torch._C._are_functorch_transforms_active():
        return False
    if weight.is_cuda:
        return weight.dtype != torch.float64 and dispatch.runs("head_differences")
    if not weight.is_cpu:
        return False
    extension.warn_if_missing()
    return extension.available()


# What follows tells torch of the compiled op: shapes for tracing, and the gradient.


def _fake_head_differences(weight: Tensor) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    differences: Tensor = weight.new_empty([weight.shape[0], weight.shape[0]], dtype=dtype)
    return differences


def _fake_head_differences_backward(grad: Tensor, weight: Tensor, differences: Tensor) -> Tensor:
    grad_weight: Tensor = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return grad_weight


def _save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    grad_weight: Tensor
    weight, differences = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph: the gradient is to be differentiated, so it needs a graph
        value = head_differences_reference(weight)
        (grad_weight,) = torch.autograd.grad(value, weight, grad, create_graph=True)
    else:
        grad_weight = gradient(grad, weight, differences)
    return grad_weight


forward, _apply = register(
    "head_differences", _fake_head_differences, "head_differences", save=_save, backward=_backward, outputs=1
)
gradient, _ = register("head_differences_backward", _fake_head_differences_backward, "head_differences")
