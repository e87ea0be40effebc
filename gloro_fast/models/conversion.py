"""Making a plain PyTorch model a good GloRo net: MinMax where it has ReLU and its like, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from gloro_fast.errors import ConfigError, nearest
from gloro_fast.nn import pairwise_minmax as rectified
from gloro_fast.nn.pairwise_minmax import PairwiseMinMax
from gloro_fast.rules.integrity import check_calls
from gloro_fast.rules.registry import has_rule

ACTIVATIONS = ("minmax", "keep")
RECTIFIERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish,
)  # fmt: skip
# The functions that compute the same; those that are others under two names are there once.
_FUNCTIONS = frozenset(
    (
        F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu6,
        F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.celu, F.celu_, torch.celu, torch.celu_,
        F.selu, F.selu_, torch.selu, torch.selu_, F.gelu, F.silu, F.mish, F.softplus, F.hardswish,
    )
)  # fmt: skip


def convert(model: nn.Module, activation: str = "minmax", *, inplace: bool = False) -> nn.Module:
    """Swap the layers of ``model`` that make poor GloRo nets.

    Convolutions and dense layers stay: ``GloRoNet`` runs and bounds those of PyTorch as fast as its own. With
    ``activation="minmax"`` the rectifiers (ReLU, LeakyReLU, ELU, GELU, SiLU and the like, but not PReLU, which has
    weights) become ``gloro_fast.nn.PairwiseMinMax``, which keeps the norm of gradients; of an odd number of channels
    the last goes through as it is. So do those that a ``forward`` calls as functions (``F.relu(x)``, ``x.relu_()``).
    Layers within a layer that has a rule of its own stay as they are.

    Args:
        model: any module.
        activation: ``"minmax"``, or ``"keep"`` to swap nothing.
        inplace: change ``model`` itself; else a copy of its modules, with the very same parameters and buffers.

    Returns:
        The converted model, its parameters and ``state_dict`` keys those of ``model``.

    Raises:
        ConfigError: there is no such activation.
        ArchitectureError: an activation has a forward of its own, or its weights in a hook.
    """
    if activation not in ACTIVATIONS:
        raise ConfigError(f"there is no activation {activation!r} to convert to{nearest(activation, ACTIVATIONS)}")
    converted = model if inplace else _sharing_copy(model)
    if activation == "keep":
        return converted
    swapped: dict[nn.Module, nn.Module] = {}

    def swap(name: str, layer: nn.Module) -> nn.Module:
        if type(layer) not in RECTIFIERS:
            if not has_rule(layer) and not type(layer).__module__.startswith("torch.nn."):
                layer.__class__ = _converted_class(type(layer))
            return layer
        check_calls(name, layer)
        # A layer that is used twice is one layer afterwards too.
        return swapped.setdefault(layer, PairwiseMinMax(layer).train(layer.training))

    return _swap(converted, swap)


def revert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Put the activations back that ``convert`` swapped.

    Args:
        model: what ``convert`` gave, or a copy of it; trained since or not.
        inplace: as for ``convert``.

    Returns:
        The model with its own activations, parameters and ``state_dict`` keys as they are.
    """

    def back(name: str, layer: nn.Module) -> nn.Module:
        layer.__class__ = vars(type(layer)).get("_original", type(layer))
        original: nn.Module | None = layer.__dict__.get("original") if type(layer) is PairwiseMinMax else None
        return layer if original is None else original.train(layer.training)

    return _swap(model if inplace else _sharing_copy(model), back)


class _SwappedFunctions(TorchFunctionMode):
    """Calls MinMax where a rectifier is called as a function."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _FUNCTIONS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        in_place = kwargs.get("inplace", False) or func.__name__.endswith("_") or args[-1] is True
        return rectified.pairwise_minmax_(x) if in_place else rectified.pairwise_minmax(x)


_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {}


def _converted_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass whose forward calls MinMax where that of ``kind`` calls a rectifier: always the same one."""
    if kind in _CONVERTED:
        return _CONVERTED[kind]

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _SwappedFunctions():
            return kind.forward(self, *args, **kwargs)

    def reduce(self: nn.Module, protocol: int) -> Any:
        return _made_again, (kind,), self.__getstate__()  # type: ignore[no-untyped-call]

    members = {"forward": forward, "__reduce_ex__": reduce, "_original": kind, "__module__": kind.__module__}
    _CONVERTED[kind] = type(kind.__name__, (kind,), members)
    return _CONVERTED[kind]


def _made_again(kind: type[nn.Module]) -> nn.Module:
    made: nn.Module = _converted_class(kind).__new__(_converted_class(kind))
    return made


def _sharing_copy(model: nn.Module) -> nn.Module:
    """Copy the modules, not the tensors."""
    kept = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo=dict(kept))


def _swap(model: nn.Module, swap: Callable[[str, nn.Module], nn.Module]) -> nn.Module:
    for name, parent, key in list(_places(model)):
        child = parent._modules[key]
        assert child is not None
        parent._modules[key] = swap(name, child)
    return swap("", model)


def _places(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """List where modules are held, with their names: not within layers that have a rule for the whole."""
    if has_rule(module):
        return
    for key, child in module._modules.items():
        if child is not None:
            qualified = f"{name}.{key}" if name else key
            yield qualified, module, key
            yield from _places(child, qualified)
