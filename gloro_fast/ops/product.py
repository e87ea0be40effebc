"""The product of the constants of a sequence of layers, whose gradient no device waits for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.eager_function import EagerFunction


def product_reference(values: Tensor) -> Tensor:
    """Return the product of ``values``, in plain PyTorch.

    Args:
        values: (n,), of a floating dtype.

    Returns:
        scalar of that dtype; with n = 0 it is 1.
    """
    return values.prod()


def product(values: Tensor) -> Tensor:
    """Return the product of ``values``: see :func:`product_reference`, whose bits it has.

    The gradient of ``torch.prod`` asks the device where the zeros are (``nonzero``): on a GPU a wait in every step,
    which no graph can capture. This one is the product of all others, exact where factors are 0, and one Triton
    launch on the GPU. A compiler, torch.func's transforms and a gradient of the gradient get that of ``torch.prod``.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return product_reference(values)
    result: Tensor = _Product.apply(values)
    return result


def _fake_product_backward(grad: Tensor, values: Tensor) -> Tensor:
    gradient: Tensor = torch.empty_like(values, memory_format=torch.contiguous_format)
    return gradient


def gradient(grad: Tensor, values: Tensor, result: Tensor) -> Tensor:
    """Return the gradient of ``values``, given that of their product and the product itself."""
    if not torch._C._are_functorch_transforms_active():
        if values.is_cuda and dispatch.runs("product"):
            found: Tensor = _gradient_on_gpu(grad, values)
            return found
        # A look at the CPU's memory is no wait, and saves 8 of the 10 microseconds of what follows.
        if type(values) is Tensor and values.is_cpu and all(values.tolist()):
            return grad * (result / values)
    return grad * values.repeat(len(values), 1).fill_diagonal_(1.0).prod(dim=1)


class _Product(EagerFunction):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        result = values.prod()
        ctx.save_for_backward(values, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        values: Tensor
        values, result = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the gradient is to be differentiated, so it needs a graph
            return torch.autograd.grad(product_reference(values), values, grad, create_graph=True)[0]
        return gradient(grad, values, result)


if extension.available():
    torch.library.define("gloro_fast::product_backward", "(Tensor grad, Tensor values) -> Tensor")
    torch.library.register_fake("gloro_fast::product_backward", _fake_product_backward)
    dispatch.implement("product_backward", "product")
    _gradient_on_gpu = dispatch.eager("product_backward")
