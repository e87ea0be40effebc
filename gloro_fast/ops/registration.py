"""An op from one description: what tracing needs of it, its kernel for GPUs in Triton, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.eager_function import EagerFunction


def register(
    name: str,
    fake: Callable[..., Any],
    kernel: str,
    schema: str = "",
    save: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
    backward: Callable[..., Any] | None = None,
    outputs: int = 0,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Tell torch of the op ``gloro_fast::<name>``: nothing where the compiled ops are missing, nor does it run there.

    Args:
        name: of the op, and of the function in ``gloro_fast.kernels.<kernel>`` that serves it on GPUs.
        fake: from its arguments to outputs of their shapes, types and strides.
        kernel: the module.
        schema: of an op that csrc does not have, such as ``"(Tensor x) -> Tensor"``.
        save: from (ctx, arguments, outputs): keeps what ``backward`` needs.
        backward: from (ctx, gradient of the first output, ...) to the gradients of the arguments.
        outputs: how many of its outputs ``apply`` gives: the first alone is differentiable; 1 for an op whose output is
            no tuple; 0 to have no ``apply``, and as many differentiable outputs as ``backward`` takes gradients.

    Returns:
        forward: what calls the op in eager mode without autograd, as within functions of its own.
        apply: what calls it with its gradient, in 20 microseconds less a step of 2C2F than through torch.library, whose
            autograd from Python costs more than the kernels, and which compilers need.
    """
    if not extension.available():
        return _missing, _missing
    qualified = f"gloro_fast::{name}"
    if schema:
        torch.library.define(qualified, schema)
    torch.library.register_fake(qualified, fake)
    dispatch.implement(name, kernel)
    forward = dispatch.eager(name)
    if backward is None or save is None:
        return forward, _missing

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        save(ctx, inputs, output)

    torch.library.register_autograd(qualified, backward, setup_context=setup_context if outputs > 1 else save)
    return forward, eager_function(name, forward, save, backward, outputs).apply if outputs else _missing


def eager_function(
    name: str,
    run: Callable[..., Any],
    save: Callable[[Any, tuple[Any, ...], Any], None],
    gradient: Callable[..., Any],
    outputs: int,
) -> type[EagerFunction]:
    """Make the function of autograd for eager mode; arguments as for :func:`register`, and ``run`` the op itself."""

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = run(*inputs)
        if outputs > 1:
            ctx.set_materialize_grads(False)  # none of zeros for the outputs that have no gradient
            ctx.mark_non_differentiable(*output[1:outputs])
            save(ctx, inputs, output)
            return output[:outputs]
        save(ctx, inputs, output)
        return output

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return (None,) * len(ctx.needs_input_grad) if grads[0] is None else gradient(ctx, grads[0])

    return type(name, (EagerFunction,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})


def _missing(*arguments: Any) -> Any:
    raise RuntimeError(extension.why_not() or "the op has no gradient of its own")
