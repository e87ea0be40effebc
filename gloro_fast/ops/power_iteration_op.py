"""Power iteration through every layer of a network and its transpose (Leino et al. 2021, Section 4.2).

It approaches each spectral norm from below: an estimate to train with, never a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops.eager_function import EagerFunction
from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.normalize import normalize
from gloro_fast.ops.power_iteration_gpu import enough_multiprocessors, gpu_runs

_WEIGHT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_ITERATE_DTYPES = (torch.float32, torch.float64)


def power_iteration_reference(
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run ``iterations`` steps v <- A^T A v / ||A^T A v|| for every layer, in plain PyTorch.

    The iterates are constants to autograd; the gradient flows through the last application only, so that
    d sigma / d W = u v^T (of a convolution: its weight gradient at input v and output gradient u). Zero weights
    give sigma = 0, keep their v, and have a finite gradient.

    Args:
        weights: L weights, (out, in) or (out, in / groups, *kernel), any floating dtype.
        v: L iterates of the layers' input shapes, unit norm, float32 or float64.
        geometries: L geometries.
        iterations: steps T >= 0.

    Returns:
        sigma: (L,) estimates <= the spectral norms up to rounding, float32 (float64 where a v is).
        v_new: L iterates of unit norm.
        u: L unit vectors A v / ||A v|| of the layers' output shapes.
    """
    sigmas, v_new, u_new = [], [], []
    for weight, start, geometry in zip(weights, v, geometries, strict=True):
        operator = weight.to(start.dtype)
        with torch.no_grad():
            right = start
            for _ in range(iterations):
                left = normalize(geometry.apply(operator, right), otherwise=None)
                right = normalize(geometry.adjoint(operator, left), otherwise=right)
            left = normalize(geometry.apply(operator, right), otherwise=None)
        sigmas.append((left * geometry.apply(operator, right)).sum())
        v_new.append(right)
        u_new.append(left)
    return torch.stack(sigmas) if sigmas else torch.zeros(0), v_new, u_new


def power_iteration(
    weights: Sequence[Tensor],
    v: Sequence[Tensor],
    geometries: Sequence[Geometry],
    iterations: int,
    multiprocessors: int | None = 0,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run the power iteration of every layer in one call; arguments and results as for the reference.

    Runs compiled for dense layers and zero-padded convolutions in one or two dimensions, and saves u and v alone for
    the backward pass; otherwise, and within torch.func's transforms, as :func:`power_iteration_reference`. On the CPU
    with the same bits at every number of threads; on a GPU (float32 iterates, weights of 32 or 16 bits) in one
    cooperative launch for up to 96 layers, and one for the gradient, which a CUDA graph can capture once a first call
    has planned them. Where the GPU or the build cannot do that, one warning says so, and the reference does it.

    Args:
        weights: L weights.
        v: L iterates.
        geometries: L geometries.
        iterations: steps T >= 0.
        multiprocessors: how many of a GPU's to hold, and so how many to leave to what runs beside; 0 holds all, None as
            many as the network needs by :func:`gloro_fast.ops.power_iteration_gpu.enough_multiprocessors`. The last
            bits of the results depend on it, as they do on the card.
    """
    layers = describe(weights, v, geometries)
    if layers is not None:
        if extension.available():
            if multiprocessors is None:
                multiprocessors = enough(layers, weights[0].device)
            if torch.compiler.is_compiling():
                sigma, v_new, u = torch.ops.gloro_fast.power_iteration(
                    list(weights), list(v), layers, iterations, multiprocessors=multiprocessors
                )
                return sigma, v_new, u
            iterates: list[list[Tensor]] = []
            sigma = _Eager.apply(iterates, layers, v, iterations, multiprocessors, *weights)
            return sigma, *iterates
        extension.warn_if_missing()
    return power_iteration_reference(weights, v, geometries, iterations)


def enough(layers: list[int], device: torch.device) -> int:
    """Return how many multiprocessors the network needs, 0 on the CPU and for a compiler."""
    if device.type != "cuda" or torch.compiler.is_compiling() or not torch.cuda.is_available():
        return 0
    return enough_multiprocessors(tuple(layers), torch.cuda.current_device() if device.index is None else device.index)


# What follows tells torch of the compiled ops: the layers as integers (csrc/common/power_iteration_description.h
# gives their order), shapes for tracing, and the gradient.


def describe(weights: Sequence[Tensor], v: Sequence[Tensor], geometries: Sequence[Geometry]) -> list[int] | None:
    """Return the layers as the integers that the compiled ops take; None where those do not handle them all."""
    # torch.func (vmap, grad, jvp) does not differentiate ops of torch.library, but the reference it does.
    if not 0 < len(weights) == len(v) == len(geometries) or torch._C._are_functorch_transforms_active():
        return None
    find = _numbers.__wrapped__ if torch.compiler.is_compiling() else _numbers
    numbers = find(
        tuple([_layout(weight) for weight in weights]),
        tuple([(start.shape, start.dtype) for start in v]),
        tuple(geometries),
        tuple([tensor.device for tensor in (*weights, *v)]),
    )
    if numbers is None or v[0].is_cpu:
        return numbers
    return numbers if gpu_runs(numbers, v[0].device) else None


@lru_cache(maxsize=64)
def _numbers(
    layouts: tuple[_Layout, ...],
    iterates: tuple[tuple[torch.Size, torch.dtype], ...],
    geometries: tuple[Geometry, ...],
    devices: tuple[torch.device, ...],
) -> list[int] | None:
    dtype, device = iterates[0][1], devices[0]
    if dtype not in _ITERATE_DTYPES or device.type not in ("cpu", "cuda") or any(other != device for other in devices):
        return None
    for (shape, of_weight, _), (start, of_start), geometry in zip(layouts, iterates, geometries, strict=True):
        known = of_weight in _WEIGHT_DTYPES and of_start == dtype and geometry.padding_mode == "zeros"
        if not known or len(geometry.stride) > 2 or start != geometry.input_shape or 0 in (*shape, *start):
            return None
    if device.type == "cuda" and (dtype != torch.float32 or any(layout[1] == torch.float64 for layout in layouts)):
        return None
    return _layer_numbers(layouts, geometries)


def layer_numbers(weights: Sequence[Tensor], geometries: Sequence[Geometry]) -> list[int]:
    """Return the layers as the integers that the compiled ops take (csrc/common/power_iteration_description.h)."""
    return _layer_numbers([_layout(weight) for weight in weights], geometries)


_Layout = tuple[torch.Size, torch.dtype, bool]
"""Of a weight: shape, type, whether it is channels_last."""


def _layout(weight: Tensor) -> _Layout:
    channels_last = weight.dim() == 4 and not weight.is_contiguous()
    channels_last = channels_last and weight.is_contiguous(memory_format=torch.channels_last)
    return weight.shape, weight.dtype, channels_last


def _layer_numbers(layouts: Sequence[_Layout], geometries: Sequence[Geometry]) -> list[int]:
    numbers: list[int] = []
    for (shape, dtype, channels_last), geometry in zip(layouts, geometries, strict=True):
        spatial = len(geometry.stride)
        numbers += (spatial, _WEIGHT_DTYPES.index(dtype), int(channels_last))
        numbers += (shape[0], geometry.input_shape[0], geometry.groups)
        for axis, (before, after) in enumerate(geometry.padding):
            numbers += (geometry.input_shape[1 + axis], shape[2 + axis], geometry.stride[axis])
            numbers += (before, after, geometry.dilation[axis])
    return numbers


def _read(numbers: Sequence[int]) -> list[tuple[Geometry, Tensor]]:
    """Return geometry and a weight without memory of every layer."""
    layers = []
    rest = list(numbers)
    while rest:
        spatial, dtype, channels_last, outputs, inputs, groups = rest[:6]
        axes = [rest[6 + 6 * axis : 12 + 6 * axis] for axis in range(spatial)]
        geometry = Geometry(
            (inputs, *(axis[0] for axis in axes)),
            tuple(axis[2] for axis in axes),
            tuple((axis[3], axis[4]) for axis in axes),
            tuple(axis[5] for axis in axes),
            groups,
        )
        weight_shape = (outputs, inputs // groups, *(axis[1] for axis in axes))
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        like = torch.empty(weight_shape, dtype=_WEIGHT_DTYPES[dtype], memory_format=memory_format, device="meta")
        layers.append((geometry, like))
        rest = rest[6 + 6 * spatial :]
    return layers


def _fake(
    weights: list[Tensor], v: list[Tensor], layers: list[int], iterations: int, *, multiprocessors: int = 0
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    read = _read(layers)
    v_new = [v[0].new_empty(geometry.input_shape) for geometry, _ in read]
    u = [v[0].new_empty(len(weight), *geometry.output_sizes(weight.shape[2:])) for geometry, weight in read]
    return v[0].new_empty(len(read)), v_new, u


def _fake_backward(grad_sigma: Tensor, v: list[Tensor], u: list[Tensor], layers: list[int]) -> list[Tensor]:
    return [torch.empty_like(weight, device=grad_sigma.device) for _, weight in _read(layers)]


def _save_iterates(
    ctx: Any,
    inputs: tuple[Any, ...],
    keyword_only_inputs: dict[str, Any],
    output: tuple[Tensor, list[Tensor], list[Tensor]],
) -> None:
    ctx.layers = inputs[2]
    _, v, u = output
    ctx.save_for_backward(*v, *u)
    ctx.mark_non_differentiable(*v, *u)


def _gradients(ctx: Any, grad_sigma: Tensor, below_autograd: bool = False) -> list[Tensor]:
    # Outside of the guard, since checkpointing runs the forward pass again to give these.
    saved = ctx.saved_tensors
    v, u = saved[: len(saved) // 2], saved[len(saved) // 2 :]
    with torch._C._AutoDispatchBelowAutograd() if below_autograd else nullcontext():
        gradients: list[Tensor] = torch.ops.gloro_fast.power_iteration_backward.default(grad_sigma, v, u, ctx.layers)
    return gradients


def _backward(ctx: Any, grad_sigma: Tensor, *_: Any) -> tuple[list[Tensor], list[None], None, None]:
    gradients = _gradients(ctx, grad_sigma)
    return gradients, [None] * len(gradients), None, None


class _Eager(EagerFunction):
    """The op and its gradient without torch.library's autograd, which costs 130 microseconds a step.

    The op itself takes 170 of 2C2F; torch.compile pays that once. Sigma alone goes through autograd, the iterates leave
    by a list: each output of a function costs two microseconds, most of it for zeros as its gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        iterates: list[list[Tensor]],
        layers: list[int],
        v: Sequence[Tensor],
        steps: int,
        multiprocessors: int,
        *weights: Tensor,
    ) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output: tuple[Tensor, list[Tensor], list[Tensor]]
            output = torch.ops.gloro_fast.power_iteration.default(
                weights, v, layers, steps, multiprocessors=multiprocessors
            )
        sigma, v_new, u = output
        iterates += (v_new, u)
        ctx.layers = layers
        ctx.save_for_backward(*v_new, *u)
        return sigma

    @staticmethod
    def backward(ctx: Any, grad_sigma: Tensor) -> tuple[Tensor | None, ...]:
        to_differentiate = torch.is_grad_enabled()  # asked for with create_graph
        return (None, None, None, None, None, *_gradients(ctx, grad_sigma, below_autograd=not to_differentiate))


def _save_iterates_of_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, v, u, ctx.layers = inputs
    ctx.save_for_backward(*v, *u)


def _backward_of_backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor, list[None], list[None], None]:
    """The gradient is linear in sigma's, with u_l v_l^T of layer l as its factor."""
    layers = _read(ctx.layers)
    v, u = ctx.saved_tensors[: len(layers)], ctx.saved_tensors[len(layers) :]
    factors = [
        (left * geometry.apply(grad.to(right.dtype), right)).sum()
        for grad, (geometry, _), right, left in zip(grads, layers, v, u, strict=True)
    ]
    return torch.stack(factors), [None] * len(layers), [None] * len(layers), None


if extension.available():
    torch.library.register_fake("gloro_fast::power_iteration", _fake)
    torch.library.register_fake("gloro_fast::power_iteration_backward", _fake_backward)
    torch.library.register_autograd("gloro_fast::power_iteration", _backward, setup_context=_save_iterates)
    torch.library.register_autograd(
        "gloro_fast::power_iteration_backward", _backward_of_backward, setup_context=_save_iterates_of_backward
    )
