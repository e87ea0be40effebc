"""Matrix products and convolutions in the arithmetic of their own type: what certificates rest on, never in TF32.

PyTorch's switches for TF32 are those of the process: whoever turns one for a while turns it for every thread, and
whoever turns it back exposes the others. Here nothing is switched. Within a mode, which is a thread's own and which
compilers and exporters trace through, functions that multiply are called in a form that does not ask the switches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gloro_fast.ops.strict_convolution import strict_convolution, wide_convolution

_Handler = Callable[..., Any]


class Strictness(TorchFunctionMode):
    """Calls of functions that multiply matrices or convolve, in a form that no switch of the process has a part in.

    Args:
        wide: compute in float64 and round the result, each element a sum of products; else in float32, convolutions by
            cuDNN, products with a matrix of weights as convolutions of one pixel, and the rest, such as ``einsum`` and
            what ``torch.linalg`` has, in float64.
        dtypes: types of tensors to which this applies.
        devices: likewise. Autocast, where it is on, is left alone.
    """

    def __init__(self, wide: bool, dtypes: Sequence[torch.dtype], devices: Sequence[str]) -> None:
        super().__init__()
        self.wide, self._dtypes, self.devices = wide, dtypes, devices

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, or what stands for it."""
        kwargs = kwargs or {}
        handler = _HANDLERS.get(func)
        found = NotImplemented if handler is None else handler(self, func, *args, **kwargs)
        return func(*args, **kwargs) if found is NotImplemented else found

    def applies(self, x: Tensor) -> bool:
        """Return whether products of ``x`` are to be strict."""
        kind = x.device.type
        return x.dtype in self._dtypes and kind in self.devices and not torch.is_autocast_enabled(kind)

    def convolve(self, *args: Any) -> Tensor:
        """Convolve, with the arguments of :func:`strict_convolution`."""
        return wide_convolution(*args) if self.wide else strict_convolution(*args)

    def in_float64(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``func`` on float64 tensors instead of float32 ones, and round what it gives; NotImplemented if none."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # A result for ``out`` would go into a copy.
        if kwargs.get("out") is not None or not any(self.applies(x) and x.dtype == torch.float32 for x in given):
            return NotImplemented
        wide_args, wide_kwargs = tree_map_only(Tensor, _widened, (args, kwargs))
        return tree_map_only(Tensor, _rounded, func(*wide_args, **wide_kwargs))


FLOAT32 = Strictness(False, (torch.float32,), ("cuda",))
"""float32 on a GPU: what a certificate for real arithmetic on the logits as they were computed takes them from."""

WEIGHTS = Strictness(True, (torch.float32, torch.float64), ("cuda",))
"""What layers and functions make of their weights before they apply them, and layers that are not this package's.

In float64, so that a weight is the same number when it is bounded, whichever pass computes it again. Bounds of layers
are found within it as well: their own convolutions, in float64, add products, where cuDNN may choose FFT.
"""

SUMS = Strictness(True, (torch.float32, torch.float64), ("cuda", "cpu"))
"""Each element a sum of its products, by neither Winograd nor FFT: what executed certificates are about."""


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float32 else x


def _rounded(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float64 else x


# What stands for the functions: their arguments behind the mode and the function. NotImplemented leaves a call alone.


def _convolution(
    axes: int,
    mode: Strictness,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if not mode.applies(input):
        return NotImplemented
    x, gaps, nothing = input, _each(dilation, axes), (0,) * axes
    if padding == "same":
        totals = [gap * (taps - 1) for gap, taps in zip(gaps, weight.shape[2:], strict=True)]
        # The extra one goes to the end.
        x = F.pad(x, [n for total in reversed(totals) for n in (0, total % 2)]) if any(n % 2 for n in totals) else x
        zeros = tuple(total // 2 for total in totals)
    else:
        zeros = nothing if padding == "valid" else _each(padding, axes)
    return _on_batch(mode, x, weight, bias, _each(stride, axes), zeros, gaps, False, nothing, groups)


def _transposed(
    axes: int,
    mode: Strictness,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    if not mode.applies(input):
        return NotImplemented
    steps, cuts, extras, gaps = (_each(value, axes) for value in (stride, padding, output_padding, dilation))
    return _on_batch(mode, input, weight, bias, steps, cuts, gaps, True, extras, groups)


def _any_convolution(mode: Strictness, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return mode.convolve(*args) if not kwargs and mode.applies(args[0]) else NotImplemented


def _on_batch(mode: Strictness, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return mode.convolve(x, weight, *rest) if x.dim() == weight.dim() else mode.convolve(x[None], weight, *rest)[0]


def _linear(
    mode: Strictness,
    func: Callable[..., Any],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Any:
    if mode.wide or weight.dim() != 2 or not mode.applies(input):
        return mode.in_float64(func, input, weight, bias)
    return _affine(mode, input, weight, bias)


def _matrix_product(mode: Strictness, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if mode.wide or kwargs or args[0].dim() < 2 or args[1].dim() != 2 or not mode.applies(args[0]):
        return mode.in_float64(func, *args, **kwargs)
    return _affine(mode, args[0], args[1].t(), None)


def _affine_product(mode: Strictness, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if mode.wide or kwargs or len(args) != 3 or args[0].dim() != 1 or not mode.applies(args[1]):
        return mode.in_float64(func, *args, **kwargs)
    return _affine(mode, args[1], args[2].t(), args[0])


def _affine(mode: Strictness, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x W^T + b`` as a convolution of one pixel, for which cuDNN takes a permission that cuBLAS does not."""
    pixels = x.reshape(-1, x.shape[-1], 1, 1)
    one, none = (1, 1), (0, 0)
    y = mode.convolve(pixels, weight.reshape(*weight.shape, 1, 1), bias, one, none, one, False, none, 1)
    return y.reshape(*x.shape[:-1], len(weight))


def _pointwise_product(
    mode: Strictness, func: Callable[..., Any], a: Tensor, b: Tensor, bias: Tensor | None, *rest: Any
) -> Any:
    """Stand for oneDNN's product on a CPU, by which ``gloro_fast.ops.dense`` computes."""
    return mode.in_float64(F.linear, a, b, bias) if mode.applies(a) else NotImplemented


def _in_float64(mode: Strictness, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return mode.in_float64(func, *args, **kwargs)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * axes if len(sizes) == 1 else sizes


def _spellings(name: str) -> list[Any]:
    """List what a program may call by the name of an operation: functions, methods, and operations of ATen."""
    found = [getattr(owner, name, None) for owner in (torch, F, Tensor)]
    found += [getattr(torch.linalg, name.removeprefix("linalg_"), None)]
    found += [getattr(Tensor, f"__{name}__", None), getattr(Tensor, f"__r{name}__", None)]
    packet = getattr(torch.ops.aten, name, None)
    if packet is not None:
        found += [packet, *(getattr(packet, overload) for overload in packet.overloads())]
    return [function for function in found if function is not None]


# Operations whose CUDA kernels multiply matrices of float32 by cuBLAS, whatever else they are.
_OTHER_PRODUCTS = (
    "bmm", "baddbmm", "addbmm", "einsum", "tensordot", "bilinear", "cdist", "chain_matmul", "matrix_exp",
    "matrix_power", "linalg_matrix_exp", "linalg_matrix_power", "linalg_multi_dot", "linalg_householder_product",
    "linalg_inv", "linalg_pinv", "linalg_solve", "linalg_solve_triangular", "linalg_qr", "linalg_svd", "linalg_svdvals",
    "linalg_cholesky", "linalg_eigh", "linalg_lstsq", "linalg_lu", "linalg_matrix_norm", "inverse", "pinverse", "qr",
)  # fmt: skip


def _table() -> dict[Any, _Handler]:
    by_name: dict[str, _Handler] = {
        **{f"conv{axes}d": functools.partial(_convolution, axes) for axes in (1, 2, 3)},
        **{f"conv_transpose{axes}d": functools.partial(_transposed, axes) for axes in (1, 2, 3)},
        "convolution": _any_convolution,
        "linear": _linear,
        **dict.fromkeys(("matmul", "mm"), _matrix_product),
        "addmm": _affine_product,
        **dict.fromkeys(_OTHER_PRODUCTS, _in_float64),
    }
    found = {spelling: handler for name, handler in by_name.items() for spelling in _spellings(name)}
    pointwise = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if pointwise is not None:
        found |= dict.fromkeys((pointwise, pointwise.default), _pointwise_product)
    return found


_HANDLERS = _table()


def is_replaced(function: Any) -> bool:
    """Return whether a function multiplies, and a mode stands something for it."""
    return function in _HANDLERS
