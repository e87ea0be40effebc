"""A convolution on a GPU in float32 proper, whatever TF32 switches of the process say; and one as sums in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_HAS_CUDNN = torch._C._has_cudnn
_aten_convolution: Any = torch._convolution


def convolution_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve as ``torch.convolution`` does, in whatever arithmetic the switches of the process allow.

    Args:
        x: (B, C, *spatial), any floating type.
        weight: (out, C / groups, *kernel), or (C, out / groups, *kernel) if transposed, of the same type.
        bias: (out,).
        stride: a number per spatial dimension; so are the other three.
        padding: zeros at either end.
        dilation: distance of the taps.
        transposed: whether it is the adjoint of a convolution.
        output_padding: what the adjoint adds at the end.
        groups: number of channel groups.
    """
    return torch.convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


def strict_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """Convolve a float32 batch as the reference does, on a GPU without TF32; the backward pass follows the switches.

    ``aten::_convolution`` takes the permission as an argument. Inductor lowers it without its arguments, so that
    compiled and exported graphs hold an op of this package that calls it.
    """
    if torch.compiler.is_compiling():
        found: Tensor = _in_graphs(x, weight, bias, *settings)
        return found
    return _convolve(x, weight, bias, *settings)


def wide_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """Convolve in float64, with the reference's arguments, each output a sum of its products; rounded to x's type.

    Without cuDNN PyTorch multiplies matrices made of the windows of each image, and neither they nor its kernel for
    depthwise convolutions know Winograd, FFT or TF32 in float64; nor is there NNPACK or oneDNN for it on a CPU.
    """
    wide_bias = None if bias is None else bias.double()
    wide: Tensor = _aten_convolution(x.double(), weight.double(), wide_bias, *settings, False, True, False, False)
    return wide.to(x.dtype)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    _, _, dilation, _, output_padding, _ = settings
    deterministic = torch._C._get_cudnn_deterministic() or torch._C._get_deterministic_algorithms()
    # These PyTorch does not give to cuDNN, but to cuBLAS, which takes no permission.
    if not _HAS_CUDNN or any(output_padding) or (deterministic and max(dilation) > 1):
        return wide_convolution(x, weight, bias, *settings)
    benchmark = torch._C._get_cudnn_benchmark()
    strict: Tensor = _aten_convolution(x, weight, bias, *settings, benchmark, deterministic, True, False)
    return strict


_in_graphs = torch.library.custom_op(
    "gloro_fast::strict_convolution",
    _convolve,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor",
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_sizes = None if bias is None else [bias.shape[0]]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    mask = [*ctx.needs_input_grad[:2], ctx.bias_sizes is not None and ctx.needs_input_grad[2]]
    grads = torch.ops.aten.convolution_backward(grad, x, weight, ctx.bias_sizes, *ctx.geometry, mask)
    return (*grads, *[None] * len(ctx.geometry))


_in_graphs.register_fake(convolution_reference)
_in_graphs.register_autograd(_backward, setup_context=_save)
