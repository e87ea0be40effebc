"""The product of a dense layer, by the faster of the two libraries that PyTorch has for it on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from gloro_fast.native import extension
from gloro_fast.ops.eager_function import EagerFunction

# Multiplications below which the two are equally fast, and a call through Python is what counts.
_WORTH_IT = 4_000_000


def dense_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b``, in plain PyTorch.

    Args:
        x: (..., in), any float type.
        weight: (out, in) of the same type.
        bias: (out,).

    Returns:
        (..., out).
    """
    return F.linear(x, weight, bias)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + b``, and its gradients, by oneDNN where that beats MKL; arguments as for the reference.

    PyTorch multiplies float32 matrices on a CPU by MKL, which holds back on processors that are not Intel's: 200 GF/s
    on two cores of an AMD EPYC (Zen 5) where oneDNN, which comes with PyTorch as well, does 400 to 490. Everywhere else
    this is the reference. Sums are added up in another order.
    """
    if not _pays(x, weight):
        return dense_reference(x, weight, bias)
    if torch.is_grad_enabled():
        result: Tensor = _Dense.apply(x, weight, bias)
        return result
    return product(x, weight, bias)


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``a b^T + bias`` as :func:`dense` computes it, with no gradient of its own: for use in autograd functions.

    Where gradients of gradients are asked for, and so gradients are enabled in a backward pass, it is the reference.

    Args:
        a: (n, k), any strides.
        b: (m, k), any strides.
        bias: (m,).
    """
    if torch.is_grad_enabled() or not _pays(a, b):
        return dense_reference(a, b, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return found


def _pays(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype == torch.float32
        and a.dim() == 2
        # Before the sizes, which torch.export would take for a limit on the batch.
        and not torch.compiler.is_compiling()
        and a.numel() * len(b) >= _WORTH_IT
        and a.device.type == b.device.type == "cpu"
        and mkl_holds_back()
        and {type(a), type(b)} <= {Tensor, torch.nn.Parameter}
        and torch._C._get_mkldnn_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0  # within a dual level, where oneDNN's op would lose tangents
    )


@cache
def mkl_holds_back() -> bool:
    """Return whether PyTorch multiplies through an MKL that does not do its best here, and oneDNN can stand in."""
    return (
        extension.processor_vendor() not in ("", "GenuineIntel")
        and torch._C.has_mkl
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Dense(EagerFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        grad_x = product(grad, weight.T) if ctx.needs_input_grad[0] else None
        grad_weight = product(grad.T, x.T) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad.sum(0) if ctx.needs_input_grad[2] else None
