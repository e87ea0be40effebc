"""Flatten and the dense layer after it as one step, which leaves a channels_last batch as it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.ops.dense_op import dense, product
from gloro_fast.ops.eager_function import EagerFunction


@dataclass(frozen=True)
class FlattenedLinear:
    """``linear(x.flatten(1))`` for x (B, C, H, W).

    Flattening a channels_last batch copies it, and so does its gradient: 5 % of a training step of 2C2F at batch 512
    (2 cores). Where the batch is the larger of the two, the weights' columns are put into the batch's order instead.
    In real arithmetic it is the same function; its sums are added up in another order.
    """

    linear: nn.Linear

    @property
    def bias(self) -> Tensor | None:
        """That of the dense layer."""
        return self.linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        """Apply both layers to a batch."""
        return self._product(x, self.linear.bias)

    def without_bias(self, x: Tensor) -> Tensor:
        """Leave the bias to whoever reads the result next."""
        return self._product(x, None)

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if not self._pays(x):
            return dense(x.flatten(1), self.linear.weight, bias)
        product: Tensor = _ByPosition.apply(x, self.linear.weight, bias)
        return product

    def _pays(self, x: Tensor) -> bool:
        """Return whether columns move: in training, while the batch has more rows than the weights, twice as many.

        The product and its gradients take 0.82 times as long so for a batch of 512 with 100 outputs, 0.95 with 256, but
        1.4 times for 128 with 512 (2 cores, medians of 60 pairs). Without gradients columns stay, so that what is
        certified does not depend on the memory format, and compilers find their own way.
        """
        return (
            torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch._C._are_functorch_transforms_active()
            and not torch.is_autocast_enabled(x.device.type)
            and len(x) >= 2 * self.linear.out_features
            and x.is_contiguous(memory_format=torch.channels_last)
            and not x.is_contiguous()
        )


class _ByPosition(EagerFunction):
    """The product with the columns in the order of positions, then channels.

    Autograd would keep the moved columns for the backward pass; here they are moved again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(_rows(x), _by_position(weight, x.shape[1]), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad_weight = None
        channels, height, width = x.shape[1:]
        if ctx.needs_input_grad[0]:
            rows = product(grad, _by_position(weight, channels).T)
            grad_x = rows.reshape(-1, height, width, channels).movedim(3, 1)
        if ctx.needs_input_grad[1]:
            grad_weight = _moved(product(grad.T, _rows(x).T), height * width)
        return grad_x, grad_weight, grad.sum(0) if ctx.needs_input_grad[2] else None


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, 3).flatten(1)


def _by_position(weight: Tensor, channels: int) -> Tensor:
    return _moved(weight, channels)


def _moved(columns: Tensor, outer: int) -> Tensor:
    """Return (n, outer * inner) columns in the order (inner, outer)."""
    return columns.reshape(len(columns), outer, -1).transpose(1, 2).flatten(1)
