"""A quick look at a network: whether it is what it was, without applying a rule or printing a setting.

A fingerprint asks every module for its rule and settings; where nothing has changed, as at nearly every certificate,
that took 1.2 ms of the 12 ms that 500 images of 2C2F take. Here objects are compared by their identity instead, and the
bits of the weights are hashed as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast import ops
from gloro_fast.nn.rules import has_rule

# What the rules of these packages' modules say depends on the modules' attributes alone.
_OWN = ("torch.nn.modules.", "gloro_fast.")
# Objects that cannot change: the same object is the same value. Tuples are looked into.
_UNCHANGING = (bool, int, float, str, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Snapshot:
    """What a network consisted of.

    Attributes:
        modules: the network first, then everything in it.
        tensors: every parameter and buffer once, with its shape, dtype and hash.
    """

    modules: tuple[_Module, ...]
    tensors: tuple[tuple[Tensor, torch.Size, torch.dtype, int], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Snapshot | None:
        """Look at ``module``; None where a quick look would not show every change.

        That is where it has a layer of a user's own, a parametrization, an attribute that can change without being
        replaced, a tensor of a subclass, or tensors on several devices.
        """
        looks = [_Module.of(child) for child in module.modules()]
        tensors = [*module.parameters(), *module.buffers()]
        if len({tensor.device for tensor in tensors}) > 1 or any(
            type(t) not in (Tensor, nn.Parameter) for t in tensors
        ):
            return None
        known = tuple(look for look in looks if look is not None)
        if len(known) < len(looks):
            return None
        hashed = zip(tensors, _hash(tensors), strict=True)
        return cls(known, tuple((tensor, tensor.shape, tensor.dtype, value) for tensor, value in hashed))

    def __reduce__(self) -> tuple[type[Snapshot], tuple[tuple[()], tuple[()]]]:
        """Copy and pickle as a snapshot of nothing: a copied network consists of other objects."""
        return Snapshot, ((), ())

    def still_holds(self, module: nn.Module) -> bool:
        """Whether ``module`` is the network looked at, every bit of it, and no hook is registered for all modules."""
        everywhere = torch.nn.modules.module
        if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
            return False
        if not self.modules or module is not self.modules[0].module:
            return False
        if not all(look.still_holds() for look in self.modules):
            return False
        for tensor, shape, dtype, _ in self.tensors:
            if tensor.shape != shape or tensor.dtype != dtype:
                return False
        return _hash([tensor for tensor, *_ in self.tensors]) == [value for *_, value in self.tensors]


@dataclass(frozen=True)
class _Module:
    """What one module consisted of.

    Attributes:
        module: the module.
        kind: its type.
        names, values: its attributes.
        collections: those that hold parameters, buffers, children or hooks, with what was in them.
        sets: those that hold names.
    """

    module: nn.Module
    kind: type
    names: tuple[str, ...]
    values: tuple[object, ...]
    collections: tuple[tuple[dict[Any, Any], tuple[object, ...], tuple[object, ...]], ...]
    sets: tuple[tuple[set[str], frozenset[str]], ...]

    @classmethod
    def of(cls, module: nn.Module) -> _Module | None:
        if has_rule(module) and not type(module).__module__.startswith(_OWN):
            return None
        attributes = vars(module)
        collections, sets = [], []
        for value in attributes.values():
            if isinstance(value, dict):
                collections.append((value, tuple(value), tuple(value.values())))
            elif isinstance(value, set):
                sets.append((value, frozenset(value)))
            elif not _is_unchanging(value):
                return None
        names, values = tuple(attributes), tuple(attributes.values())
        return cls(module, type(module), names, values, tuple(collections), tuple(sets))

    def still_holds(self) -> bool:
        attributes = vars(self.module)
        if type(self.module) is not self.kind or tuple(attributes) != self.names:
            return False
        if not all(map(is_, attributes.values(), self.values)):
            return False
        for held, keys, objects in self.collections:
            if tuple(held) != keys or not all(map(is_, held.values(), objects)):
                return False
        return all(held == names for held, names in self.sets)


def _is_unchanging(value: object) -> bool:
    if type(value) in (tuple, torch.Size):
        return all(map(_is_unchanging, value))  # type: ignore[call-overload]
    return type(value) in _UNCHANGING


def _hash(tensors: Sequence[Tensor]) -> list[int]:
    values: list[int] = ops.fingerprint(list(tensors)).tolist() if tensors else []
    return values
