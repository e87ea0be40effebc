"""A quick look at a network: whether it is what it was, without applying a rule or printing a setting.

A fingerprint asks every module for its rule and settings; where nothing has changed, as at nearly every certificate,
that took 1.2 ms of the 12 ms that 500 images of 2C2F take. Here objects are compared by their identity instead, and the
bits of the weights are hashed as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from types import BuiltinFunctionType, EllipsisType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast import ops
from gloro_fast.nn.rules import Rule, known_type, registered_rule

# Objects that cannot change, or not without becoming another function: the same object is the same value.
_UNCHANGING = (
    bool, int, float, complex, str, bytes, type(None), EllipsisType, slice, range, torch.dtype, torch.device,
    torch.memory_format, FunctionType, BuiltinFunctionType, type,
)  # fmt: skip
_IMMUTABLE_CONTAINERS = (tuple, torch.Size, frozenset)
_DICTS = (dict, OrderedDict)
# What torch keeps in every module: hooks among it, which are whatever was registered.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Snapshot:
    """What a network consisted of.

    Attributes:
        modules: the network first, then everything in it.
        rules: the types of its modules, each with the rule registered for it.
        tensors: every parameter and buffer once, with its shape, dtype and hash.
    """

    modules: tuple[_Module, ...]
    rules: tuple[tuple[type[nn.Module], Rule | None], ...]
    tensors: tuple[tuple[Tensor, torch.Size, torch.dtype, int], ...]

    @classmethod
    def of(cls, module: nn.Module, others: Sequence[nn.Module] = ()) -> Snapshot | None:
        """Look at ``module``; None where a quick look would not show every change.

        That is where a rule of a user's own, which may read anything, is registered for one of its layers; where it has
        a parametrization, an attribute that can change unseen, a tensor of a subclass, or tensors on several devices.

        Args:
            module: the network.
            others: layers that its graph calls and that are not in it.
        """
        found = list(_reachable([module, *others]))
        looks = [_Module.of(child) for child in found]
        rules = {type(child): registered_rule(type(child)) for child in found}
        if any(rule is not None and not _is_own(rule) for rule in rules.values()):
            return None
        tensors = list({id(tensor): tensor for child in found for tensor in _tensors(child)}.values())
        if len({tensor.device for tensor in tensors}) > 1 or any(
            type(t) not in (Tensor, nn.Parameter) for t in tensors
        ):
            return None
        known = tuple(look for look in looks if look is not None)
        if len(known) < len(looks):
            return None
        hashed = zip(tensors, _hash(tensors), strict=True)
        return cls(
            known, tuple(rules.items()), tuple((tensor, tensor.shape, tensor.dtype, value) for tensor, value in hashed)
        )

    def __reduce__(self) -> tuple[type[Snapshot], tuple[tuple[()], tuple[()], tuple[()]]]:
        """Copy and pickle as a snapshot of nothing: a copied network consists of other objects."""
        return Snapshot, ((), (), ())

    def still_holds(self, module: nn.Module) -> bool:
        """Whether ``module`` is the network looked at, every bit of it, and no hook is registered for all modules."""
        return self.structure_holds(module) and (
            _hash([tensor for tensor, *_ in self.tensors]) == [value for *_, value in self.tensors]
        )

    def structure_holds(self, module: nn.Module) -> bool:
        """Whether it is, but for the bits of its tensors, which are not read."""
        everywhere = torch.nn.modules.module
        if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
            return False
        if not self.modules or module is not self.modules[0].module:
            return False
        if not all(look.still_holds() for look in self.modules):
            return False
        if not all(registered_rule(kind) is rule for kind, rule in self.rules):
            return False
        return all(tensor.shape == shape and tensor.dtype == dtype for tensor, shape, dtype, _ in self.tensors)


@dataclass(frozen=True)
class _Module:
    """What one module consisted of.

    Attributes:
        module: the module.
        kind: its type.
        names, values: its attributes.
        dicts, lists, sets: those among them, and within them, with what was in them.
    """

    module: nn.Module
    kind: type
    names: tuple[str, ...]
    values: tuple[object, ...]
    dicts: tuple[tuple[dict[Any, Any], tuple[object, ...], tuple[object, ...]], ...]
    lists: tuple[tuple[list[Any], tuple[object, ...]], ...]
    sets: tuple[tuple[set[Any], frozenset[Any]], ...]

    @classmethod
    def of(cls, module: nn.Module) -> _Module | None:
        if known_type(module) is not type(module):
            return None
        attributes = vars(module)
        dicts: list[tuple[dict[Any, Any], tuple[object, ...], tuple[object, ...]]] = []
        lists: list[tuple[list[Any], tuple[object, ...]]] = []
        sets: list[tuple[set[Any], frozenset[Any]]] = []
        for key, attribute in attributes.items():
            for value in [attribute] if key in _OF_EVERY_MODULE else _everything_in(attribute):
                if isinstance(value, dict) and type(value) in _DICTS:
                    dicts.append((value, tuple(value), tuple(value.values())))
                elif type(value) is list:
                    lists.append((value, tuple(value)))
                elif type(value) is set:
                    sets.append((value, frozenset(value)))
                elif not isinstance(value, nn.Module) and type(value) not in (*_UNCHANGING, *_IMMUTABLE_CONTAINERS):
                    return None
        names, values = tuple(attributes), tuple(attributes.values())
        return cls(module, type(module), names, values, tuple(dicts), tuple(lists), tuple(sets))

    def still_holds(self) -> bool:
        attributes = vars(self.module)
        if type(self.module) is not self.kind or tuple(attributes) != self.names:
            return False
        if not all(map(is_, attributes.values(), self.values)):
            return False
        for held, keys, objects in self.dicts:
            if tuple(held) != keys or not all(map(is_, held.values(), objects)):
                return False
        for listed, objects in self.lists:
            if len(listed) != len(objects) or not all(map(is_, listed, objects)):
                return False
        return all(held == names for held, names in self.sets)


def _is_own(rule: Rule) -> bool:
    """Whether a rule is one of this package's, all of which read nothing but the attributes of the module.

    Its globals tell where it was defined, whatever name a decorator gave it.
    """
    name: str = getattr(rule, "__globals__", {}).get("__name__", "")
    return name.startswith("gloro_fast.")


def _reachable(roots: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Go through modules, their children, and modules that are kept among their attributes."""
    waiting, seen = list(reversed(roots)), set()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        kept = [part for key, value in vars(module).items() if key != "_modules" for part in _everything_in(value)]
        waiting += [part for part in (*kept, *module._modules.values()) if isinstance(part, nn.Module)]


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            yield tensor


def _everything_in(value: object) -> Iterator[object]:
    """Go through ``value`` and what is in it, where it is a plain container."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, dict) and type(part) in _DICTS:
            waiting += [*part, *part.values()]
        elif isinstance(part, Iterable) and type(part) in (list, set, *_IMMUTABLE_CONTAINERS):
            waiting += part


def _hash(tensors: Sequence[Tensor]) -> list[int]:
    values: list[int] = ops.fingerprint(list(tensors)).tolist() if tensors else []
    return values
