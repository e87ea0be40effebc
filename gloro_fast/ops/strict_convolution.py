"""A convolution on a GPU in float32 proper, whatever TF32 switches of the process say; and one as sums in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Sizes = Sequence[int]


def convolution_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Tensor:
    """Convolve as ``torch.convolution`` does, in whatever arithmetic the switches of the process allow.

    Args:
        x: (B, C, *spatial), any floating type.
        weight: (out, C / groups, *kernel), or (C, out / groups, *kernel) if transposed, of the same type.
        bias: (out,).
        stride, padding, dilation, output_padding: a number per spatial dimension.
        transposed: whether it is the adjoint of a convolution.
        groups: number of channel groups.
    """
    return torch.convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)


def strict_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Tensor:
    """Convolve a float32 batch as the reference does, on a GPU without TF32; the backward pass follows the switches.

    ``aten::_convolution`` takes the permission as an argument. Inductor lowers it without its arguments, so that
    compiled and exported graphs hold an op of this package that calls it.
    """
    args = (x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    if torch.compiler.is_compiling():
        found: Tensor = torch.ops.gloro_fast.strict_convolution(*args)
        return found
    return _convolve(*args)


def wide_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Tensor:
    """Convolve in float64, each output a sum of its products, and round to the type of ``x``.

    Without cuDNN PyTorch multiplies matrices made of the windows of each image, and neither they nor its kernel for
    depthwise convolutions know Winograd, FFT or TF32 in float64; nor is there NNPACK or oneDNN for it on a CPU.
    """
    wide = [None if tensor is None else tensor.double() for tensor in (x, weight, bias)]
    result: Tensor = torch.ops.aten._convolution.default(
        *wide, stride, padding, dilation, transposed, output_padding, groups, False, True, False, False
    )
    return result.to(x.dtype)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Tensor:
    deterministic = torch._C._get_cudnn_deterministic() or torch._C._get_deterministic_algorithms()
    # These PyTorch does not give to cuDNN, but to cuBLAS, which takes no permission.
    elsewhere = not torch.backends.cudnn.is_available() or any(output_padding) or (deterministic and max(dilation) > 1)
    if elsewhere:
        return wide_convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    benchmark = torch._C._get_cudnn_benchmark()
    found: Tensor = torch.ops.aten._convolution.default(
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups,
        benchmark, deterministic, True, False,
    )  # fmt: skip
    return found


# What follows tells torch of the op for graphs.

_library = torch.library.Library("gloro_fast", "FRAGMENT")
_library.define(
    "strict_convolution(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor"
)
_library.impl("strict_convolution", _convolve, "CUDA")
_library.impl("strict_convolution", _convolve, "CPU")
torch.library.register_fake("gloro_fast::strict_convolution", convolution_reference, lib=_library)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_sizes = None if bias is None else [bias.shape[0]]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    mask = [*ctx.needs_input_grad[:2], ctx.bias_sizes is not None and ctx.needs_input_grad[2]]
    grads = torch.ops.aten.convolution_backward(grad, x, weight, ctx.bias_sizes, *ctx.geometry, mask)
    return (*grads, *[None] * len(ctx.geometry))


torch.library.register_autograd("gloro_fast::strict_convolution", _backward, setup_context=_save, lib=_library)
