"""MinMax: sort adjacent channel pairs, fused with the bias add of the layer before it.

It is GroupSort with groups of two (Anil, Lucas and Grosse 2019), the activation of the paper's GloRo nets. The
pair (a, b) of channels (2c, 2c+1) becomes (min, max). It swaps where a > b, so ties keep their places, in the
gradient too; where either is NaN both outputs are NaN (a NaN that got lost would be certified) and the gradient
is not defined.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gloro_fast.errors import ArchitectureError
from gloro_fast.native import dispatch, extension
from gloro_fast.ops.exporting import is_exporting
from gloro_fast.ops.registration import register

_CPU_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def minmax(x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sort the channel pairs of ``x + bias``, keeping one bit a pair for the backward pass.

    Runs compiled on the CPU and, but for float64, in Triton on the GPU, for contiguous and channels_last tensors
    without a copy (other strides are made contiguous first); elsewhere, within torch.func's transforms, and while
    torch.export, torch.onnx or torch.jit write it down, as :func:`minmax_reference`. Same bits at every number of
    threads and in every run.

    Args:
        x: (B, C) or (B, C, ...), any float type, C even.
        bias: (C,), added to the channels first; taken in the type of ``x``.

    Returns:
        y of the shape and memory format of ``x``, and the mask that says which pairs swapped. The mask is
        opaque: shape and packing differ between implementations.

    Raises:
        ArchitectureError: C is odd, ``x`` has no channel dimension, or ``bias`` does not fit.
    """
    if not runs_compiled(x):
        return minmax_reference(x, bias)
    check_arguments(x, bias)
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    result: tuple[Tensor, Tensor]
    if torch.compiler.is_compiling():
        result = torch.ops.gloro_fast.minmax(x, bias)
    elif needs_gradient(x, bias):
        result = _apply(x, bias)
    else:
        result = _forward(x, bias)
    return result


def minmax_reference(x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What :func:`minmax` computes, in plain PyTorch: any device, differentiable by autograd.

    Args:
        x: (B, C) or (B, C, ...), any float type, C even.
        bias: (C,) or None.

    Returns:
        y of the shape of ``x``, and the mask, bool, (B, C / 2, ...): true where the pair swapped.

    Raises:
        ArchitectureError: C is odd, ``x`` has no channel dimension, or ``bias`` does not fit.
    """
    check_arguments(x, bias)
    if bias is not None:
        x = x + _along_channels(bias.to(x.dtype), x)
    samples, channels, *spatial = x.shape
    a, b = x.reshape(samples, channels // 2, 2, *spatial).unbind(2)
    swap = a > b
    low = torch.where(swap | b.isnan(), b, a)
    high = torch.where(swap | a.isnan(), a, b)
    return torch.stack((low, high), dim=2).flatten(1, 2), swap


def check_arguments(x: Tensor, bias: Tensor | None) -> None:
    """Refuse what MinMax is not defined for: see :func:`minmax`."""
    shape = x.shape
    if len(shape) < 2:
        raise ArchitectureError(f"minmax: x has shape {tuple(shape)}; it needs a batch and a channel dimension")
    channels = shape[1]
    if channels % 2 != 0:
        raise ArchitectureError(f"minmax: x of shape {tuple(shape)} has {channels} channels; pairs need an even number")
    if not x.is_floating_point():
        raise ArchitectureError(f"minmax: x is {x.dtype}; convert it to a float type")
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != channels):
        raise ArchitectureError(
            f"minmax: bias of shape {tuple(bias.shape)} does not fit x of shape {tuple(shape)}; use shape ({channels},)"
        )


def runs_compiled(x: Tensor) -> bool:
    """Return whether the compiled op takes ``x``; warns once where it would, but is not built."""
    # torch.func (vmap, grad, jvp) does not differentiate ops of torch.library, but the reference it does.
    if torch._C._are_functorch_transforms_active() or is_exported():
        return False
    if x.is_cuda:
        return x.dtype in _GPU_DTYPES and dispatch.runs("minmax")
    if not x.is_cpu or x.dtype not in _CPU_DTYPES:
        return False
    extension.warn_if_missing()
    return extension.available()


def is_exported() -> bool:
    """Return whether a program is written down that may run without this package: torch.export, ONNX, TorchScript."""
    # A compiler takes a look at the tracer of TorchScript for a reason to break its graph.
    return is_exporting() if torch.compiler.is_compiling() else torch._C._is_tracing()


def needs_gradient(x: Tensor, bias: Tensor | None) -> bool:
    """Return whether autograd is to record the op."""
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _along_channels(bias: Tensor, x: Tensor) -> Tensor:
    return bias.reshape(1, -1, *(1 for _ in x.shape[2:]))


# What follows tells torch of the compiled ops: shapes and strides for tracing, and the gradient.


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _fake_minmax(x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    samples, channels, *spatial = x.shape
    length = 1
    for size in spatial:
        length = length * size
    contiguous = x.is_contiguous()
    if contiguous or not _is_channels_last(x):
        x = x.contiguous()
        contiguous = True
    if length == 1 or not contiguous:
        mask_shape = [(samples * length * (channels // 2) + 7) // 8]
    else:
        mask_shape = [samples * (channels // 2), (length + 7) // 8]
    return torch.empty_like(x), x.new_empty(mask_shape, dtype=torch.uint8)


def _fake_minmax_backward(grad_y: Tensor, mask: Tensor, with_bias: bool) -> tuple[Tensor, Tensor]:
    channels_last = mask.dim() == 1 and grad_y.dim() == 4
    grad_y = grad_y.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return torch.empty_like(grad_y), grad_y.new_empty([grad_y.shape[1] if with_bias else 0])


def _save_mask(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.with_bias = inputs[1] is not None and ctx.needs_input_grad[1]


def _backward(ctx: Any, grad_y: Tensor, _: Any = None) -> tuple[Tensor | None, Tensor | None]:
    (mask,) = ctx.saved_tensors
    route = torch.ops.gloro_fast.minmax_backward if torch.is_grad_enabled() else _route
    grad_x, grad_bias = route(grad_y, mask, ctx.with_bias)
    return grad_x, grad_bias if ctx.with_bias else None


def _save_mask_of_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, mask, ctx.with_bias = inputs
    ctx.save_for_backward(mask)


def _backward_of_backward(ctx: Any, grad_grad_x: Tensor, grad_grad_bias: Tensor) -> tuple[Tensor, None, None]:
    """The routing is its own transpose: a pair that swapped going back swaps coming forth."""
    (mask,) = ctx.saved_tensors
    if ctx.with_bias:
        grad_grad_x = grad_grad_x + _along_channels(grad_grad_bias, grad_grad_x)
    return torch.ops.gloro_fast.minmax_backward(grad_grad_x, mask, False)[0], None, None


_forward, _apply = register("minmax", _fake_minmax, "minmax", save=_save_mask, backward=_backward, outputs=2)
_route, _ = register(
    "minmax_backward", _fake_minmax_backward, "minmax", save=_save_mask_of_backward, backward=_backward_of_backward
)
