"""The steps of a graph in evaluation: those that multiply are kept from TF32, and those that may are watched too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.operations import Attribute, Function, Literal, Reshape, Within
from gloro_fast.ops.strict import FLOAT32, WEIGHTS, is_replaced
from gloro_fast.rules.registry import traits_of


@dataclass(frozen=True)
class Strictly:
    """An operation of a graph that multiplies, or may do so, kept from TF32 on a GPU.

    Attributes:
        operation: the operation.
        name: of its node, for messages.
        known: whether it is known to multiply by nothing but what :data:`FLOAT32` replaces. Others, such as layers with
            rules of a user's, run within :data:`WEIGHTS`, and outside of graphs are watched.
    """

    operation: Callable[..., Any]
    name: str
    known: bool

    def __call__(self, *values: Any) -> Any:
        """Call it.

        Raises:
            ArchitectureError: it multiplies by an operation that may use TF32; names both.
        """
        if self.known:
            with FLOAT32:
                return self.operation(*values)
        # A compiler cannot watch. The net was watched when its graph was made.
        if torch.compiler.is_compiling():
            with WEIGHTS:
                return self.operation(*values)
        with _Watch(self.name), WEIGHTS:
            return self.operation(*values)


def strictly(operation: Callable[..., Any], name: str, is_constant: bool) -> Callable[..., Any]:
    """Return what computes an operation without TF32 on a GPU: the operation itself where it multiplies nothing.

    Args:
        operation: of a graph, or a step made of two of them.
        name: of its node.
        is_constant: whether it works on parameters alone.
    """
    multiplies = _multiplies(operation, is_constant)
    return operation if multiplies is False else Strictly(operation, name, known=multiplies is True)


def _multiplies(operation: Any, is_constant: bool) -> bool | None:
    """Return whether it multiplies or convolves by functions alone that are replaced; None where it is unknown."""
    if isinstance(operation, Within):
        return _multiplies(operation.operation, is_constant)
    if isinstance(operation, Reshape | Literal):
        return False
    if isinstance(operation, Attribute):
        owner = operation.owner
        return False if operation.name in {**vars(owner), **owner._parameters, **owner._buffers} else None
    if isinstance(operation, Function):
        function: Any = operation.function
        if is_replaced(function):
            return True
        if getattr(function, "namespace", "") == "aten":
            # On images the graph has operations that it knows; on parameters there may be any.
            plain = torch.Tag.pointwise in function.tags or function.is_view
            return False if plain or not is_constant else None
        ours = (getattr(function, "__module__", None) or "").split(".")[0] in ("gloro_fast", "_operator")
        return False if ours else None
    module = operation
    while not isinstance(module, nn.Module) and hasattr(module, "linear"):  # A step made of several operations.
        module = module.linear
    if not isinstance(module, nn.Module) or parametrize.is_parametrized(module):
        return None
    return traits_of(module).multiplies


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse operations that may use TF32 within an operation of which nothing is known but its constant."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = name

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if may_use_tf32(func, args, kwargs or {}):
            raise ArchitectureError(
                f"{self._name or 'the module'} computes {func}, which may use TF32 on a GPU; write it with "
                "torch.matmul, F.linear or F.conv2d, or convert the net with .double()"
            )
        return func(*args, **(kwargs or {}))


_MAY_USE_TF32 = (
    "convolution", "mm", "addmm", "bmm", "baddbmm", "addbmm", "_addmm_activation", "matmul", "linear", "_trilinear",
    "_cdist_forward", "_euclidean_dist", "_efficient_attention_forward", "_flash_attention_forward",
    "convolution_overrideable",
)  # fmt: skip
_MAY_USE_TF32_BEGINNINGS = (
    "linalg_",
    "_linalg_",
    "_scaled_dot_product",
    "_cudnn",
    "slow_conv",
    "_slow_conv",
    "_thnn_fused",
)
_WITH_PERMISSION = ("_convolution", "cudnn_convolution", "cudnn_convolution_transpose")
_WITHOUT_PRODUCTS = ("linalg_vector_norm", "linalg_cross", "linalg_diagonal")


def may_use_tf32(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Return whether this call of an operation of ATen multiplies float32 on a GPU as the switches allow."""
    if getattr(func, "namespace", "") != "aten":
        return False
    name = func._schema.name.partition("::")[2].rstrip("_")
    if name in _WITH_PERMISSION:
        multiplies = (args[-1] if len(args) == len(func._schema.arguments) else True) is not False
    else:
        multiplies = name in _MAY_USE_TF32 or (
            name.startswith(_MAY_USE_TF32_BEGINNINGS) and name not in _WITHOUT_PRODUCTS
        )
    return multiplies and any(
        isinstance(x, Tensor) and x.dtype == torch.float32 and x.device.type in FLOAT32.devices
        for x in tree_leaves((args, kwargs))
    )
