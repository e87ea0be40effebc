"""What a ``forward`` may read besides tensors: numbers and functions that a graph keeps as they were.

Attributes of modules and objects, what is in containers, closures, and the globals that code names. Objects are
compared by their identity, numbers and names by value; nothing is shown or hashed, so that a look takes microseconds a
module.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from operator import is_
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None), EllipsisType, slice, range, torch.dtype, torch.device)
_LEAVES = (*_PLAIN, Tensor, BuiltinFunctionType, torch.memory_format, torch.Size)
# Code of theirs is not followed: it changes with their versions alone.
_LIBRARIES = frozenset(("torch", "gloro_fast", "numpy", "torchvision", "timm", *sys.stdlib_module_names)) - {"__main__"}
_MISSING = object()
# By these code reads attributes whose names do not stand in it.
_REFLECTION = {"getattr", "vars", "__dict__", "locals", "eval", "exec", "dir", "attrgetter"}
# Where properties and decorated methods keep their functions.
_WITHIN = ("fget", "__func__", "func", "dispatcher", "__wrapped__")
# By these it asks for the mode of a module, or does more where that changes.
_MODE = {"training", "train", "eval"}
# What torch keeps in every module: the mode, hooks, and tensors and modules, which are looked at by their names.
_APART = frozenset(vars(nn.Module()))


@dataclass(frozen=True)
class Held:
    """Some objects that are kept somewhere.

    Attributes:
        look: lists them as they are now.
        objects: those that were there.
    """

    look: Callable[[], tuple[object, ...]]
    objects: tuple[object, ...]

    def holds(self) -> bool:
        """Return whether the same ones are still there."""
        now = self.look()
        if len(now) != len(self.objects):
            return False
        return all(map(is_, now, self.objects)) or all(map(_same, now, self.objects))


@dataclass(frozen=True)
class HeldModule(Held):
    """What is kept in a module.

    Attributes:
        module: the module.
        exact: the very objects that were there, its tensors among them, by which nearly every look is done: 2
            microseconds instead of 10.
    """

    module: nn.Module
    exact: tuple[tuple[dict[str, object], tuple[str, ...], tuple[object, ...]], ...]

    @classmethod
    def of(cls, module: nn.Module, names: set[str] | None) -> HeldModule:
        """Look at a module, at its attributes with these names."""
        held: list[Any] = [vars(module), module._parameters, module._buffers, module._modules]
        held += [module._forward_hooks, module._forward_pre_hooks]
        look = partial(_of_module, module, names)
        return cls(look, look(), module, tuple((part, tuple(part), tuple(part.values())) for part in held if part))

    def holds(self) -> bool:
        """Return whether the same objects are still there, or else the same in all that counts."""
        return self.is_untouched() or super().holds()

    def is_untouched(self) -> bool:
        """Return whether the very same objects are still there, tensors among them."""
        for held, names, objects in self.exact:
            if tuple(held) != names or not all(map(is_, held.values(), objects)):
                return False
        return type(self.module) is self.objects[0] and self._none_came()

    def _none_came(self) -> bool:
        module = self.module
        count = bool(module._parameters) + bool(module._buffers) + bool(module._modules)
        return 1 + count + bool(module._forward_hooks) + bool(module._forward_pre_hooks) == len(self.exact)


@dataclass(frozen=True)
class Reads:
    """Everything that a module's forward may read.

    Attributes:
        held: what is kept where, but for modules.
        modules: what is kept in modules.
        ties: which tensors in them are the same.
        tensors: whether there are tensors among it that are neither parameters nor buffers, whose values are not seen.
        copied: whether it was copied from one that held: of the copied module nothing is known yet.
        mode: whether its code may ask in which mode a module is.
    """

    held: tuple[Held, ...]
    modules: tuple[HeldModule, ...] = ()
    ties: Held | None = None
    tensors: bool = False
    copied: bool = False
    mode: bool = True

    @classmethod
    def of(cls, *modules: nn.Module) -> Reads:
        """Look at modules and all that can be reached from them."""
        names = _Walker(None)
        for module in modules:
            names.walk(module)
        walker = _Walker(names.names if not _REFLECTION & names.names else None)
        everywhere = torch.nn.modules.module
        for hooks in (everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks):
            walker.hold(hooks)
        tied = partial(_ties, tuple(modules))
        for module in modules:
            walker.walk(module)
        mode = names.mode or bool(names.names & (_MODE | _REFLECTION))
        return cls(tuple(walker.held), tuple(walker.modules), Held(tied, tied()), walker.tensors, mode=mode)

    def hold(self) -> bool:
        """Return whether nothing has changed; False of a copy, which consists of other objects."""
        if self.ties is None:
            return False
        if not (self.are_untouched() or (all(module.holds() for module in self.modules) and self.ties.holds())):
            return False
        return self.hold_elsewhere()

    def are_untouched(self) -> bool:
        """Return whether the modules keep the very same objects, tensors among them."""
        return all(module.is_untouched() for module in self.modules)

    def hold_elsewhere(self) -> bool:
        """Return whether nothing has changed but in modules."""
        return all(held.holds() for held in self.held)

    def __deepcopy__(self, memo: object) -> Reads:
        return Reads((), copied=self.hold())

    def __reduce__(self) -> tuple[type[Reads], tuple[tuple[()]]]:
        """Copy and pickle as a look at nothing."""
        return Reads, ((),)


class _Walker:
    """Goes through all that can be reached.

    Args:
        names: the names in the code of forwards, so that attributes of users' modules with other names are left out;
            None for all of them.

    Attributes:
        names: the names in the code that was met.
        mode: whether classes have methods for the mode, or those of libraries ask for it.
    """

    def __init__(self, names: set[str] | None) -> None:
        self.names: set[str] = set()
        self.mode = False
        self._read = names
        self.held: list[Held] = []
        self.modules: list[HeldModule] = []
        self.tensors = False
        self._seen: set[int] = set()
        self._kept: list[object] = []  # So that ids stay their own.

    def hold(self, mapping: Any) -> None:
        """Note what is in ``mapping``, and no more."""
        self._hold(partial(_items, mapping))

    def walk(self, value: Any) -> None:
        """Note everything that can be reached from ``value``."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            self.tensors |= isinstance(value, Tensor)
            if isinstance(value, _LEAVES) or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            self._kept.append(value)
            waiting += self._look_at(value)

    def _look_at(self, value: Any) -> Sequence[object]:
        """Note what ``value`` keeps, and return what there is to be looked at in it."""
        if isinstance(value, nn.Module):
            held = HeldModule.of(value, None if _is_of_library(type(value)) else self._read)
            self.modules.append(held)
            return [*held.objects, *value._modules.values(), type(value)]
        if isinstance(value, dict):
            return self._hold(partial(_items, value))
        if isinstance(value, list | deque | set | frozenset):
            return self._hold(partial(tuple, value))
        if isinstance(value, tuple):
            return value
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return [value.__func__, value.__self__]
        if isinstance(value, partial):
            return [value.func, value.args, value.keywords, *self._hold(partial(_attributes, value))]
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._hold(partial(_array, value))
        if isinstance(value, ModuleType):
            return []
        return self._object(value)

    def _hold(self, look: Callable[[], tuple[object, ...]]) -> tuple[object, ...]:
        objects = look()
        self.held.append(Held(look, objects))
        return objects

    def _function(self, function: FunctionType) -> Sequence[object]:
        if _is_of_library(function):
            return []
        found = list(self._hold(partial(_function, function)))
        if vars(function):
            found += self._hold(partial(_items, vars(function)))
        names = tuple(sorted(set(_names(function.__code__))))
        self.names.update(names)
        found += self._hold(partial(_named, function.__globals__, names))
        modules, seen = [value for value in found if isinstance(value, ModuleType)], set()
        while modules:
            # Such as ``settings.training.temperature``.
            module = modules.pop()
            if module.__name__.partition(".")[0] not in _LIBRARIES and module.__name__ not in seen:
                seen.add(module.__name__)
                held = self._hold(partial(_named, vars(module), names))
                found += held
                modules += [value for value in held if isinstance(value, ModuleType)]
        return found

    def _class(self, kind: type) -> Sequence[object]:
        if kind in (object, nn.Module):
            return []
        self.mode |= not _MODE.isdisjoint(vars(kind))
        values = (*vars(kind).values(),)
        inner = [getattr(part, name, None) for part in values for name in _WITHIN]
        if _is_of_library(kind):
            methods = tuple(name for name, value in vars(kind).items() if isinstance(value, FunctionType))
            code = (part.__code__ for part in (*values, *inner) if isinstance(part, FunctionType))
            self.mode = self.mode or any(not _MODE.isdisjoint(_names(one)) for one in code)
            return [*self._hold(partial(_named, kind.__dict__, methods)), *kind.__bases__]
        return [*self._hold(partial(_items, kind.__dict__)), *inner, *kind.__bases__]

    def _object(self, value: Any) -> Sequence[object]:
        found: list[object] = []
        if hasattr(value, "__dict__") and isinstance(vars(value), dict):
            found += self._hold(partial(_attributes, value))
        if _is_installed(type(value)):
            self.mode |= not _is_of_library(type(value))  # Its code is not read.
            return []  # A trainer or logger, say, with data sets behind it.
        slots = [name for kind in type(value).__mro__ for name in _listed(getattr(kind, "__slots__", ()))]
        if slots and not _is_of_library(type(value)):
            hidden = f"_{type(value).__name__.lstrip('_')}"
            mangled = (
                f"{hidden}{name}" if name.startswith("__") and not name.endswith("__") else name for name in slots
            )
            found += self._hold(partial(_slots, value, tuple(mangled)))
        return [*found, type(value)] if not _is_of_library(type(value)) else found


# What looks list: the objects that are kept somewhere now.


def _attributes(owner: Any) -> tuple[object, ...]:
    attributes = vars(owner)
    return (*attributes, *attributes.values())


def _ties(modules: tuple[nn.Module, ...]) -> tuple[object, ...]:
    """Which parameters and buffers are one and the same: a graph reads a tied one by one of its names."""
    first: dict[int, int] = {}
    tensors = [
        tensor
        for root in modules
        for module in root.modules()
        for held in (module._parameters, module._buffers)
        for tensor in held.values()
        if tensor is not None
    ]
    return tuple(first.setdefault(id(tensor), place) for place, tensor in enumerate(tensors))


def _of_module(owner: nn.Module, names: set[str] | None) -> tuple[object, ...]:
    # The mode is looked at elsewhere: a net in training is certified as it is in evaluation. Tensors are read anew by
    # their names; which there are counts, and of what kind.
    attributes = {
        key: value for key, value in vars(owner).items() if key not in _APART and (names is None or key in names)
    }
    tensors = (
        (name, None) if tensor is None else (name, tuple(tensor.shape), tensor.dtype)
        for held in (owner._parameters, owner._buffers)
        for name, tensor in held.items()
    )
    # A net calls no hooks, so that what they read is nothing to it; which there are counts.
    hooks = (*owner._forward_hooks, *owner._forward_pre_hooks)
    return (type(owner), *attributes, *attributes.values(), *tensors, *owner._modules.items(), *hooks)


def _items(mapping: Any) -> tuple[object, ...]:
    return (*mapping, *mapping.values())


def _named(namespace: Any, names: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(map(namespace.get, names, repeat(_MISSING)))


def _slots(owner: Any, names: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(getattr(owner, name, _MISSING) for name in names)


def _array(array: Any) -> tuple[object, ...]:
    return array.shape, str(array.dtype), array.tobytes()


def _function(function: FunctionType) -> tuple[object, ...]:
    cells = tuple(_content(cell) for cell in function.__closure__ or ())
    return (function.__code__, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells)


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _same(one: object, other: object) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, _PLAIN) and bool(one == other)


def _names(code: CodeType) -> Iterator[str]:
    """List the names of globals and attributes in code, those in strings and in functions within it included."""
    yield from code.co_names
    yield from (constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_of_library(thing: Any) -> bool:
    return (getattr(thing, "__module__", None) or "").partition(".")[0] in _LIBRARIES


def _is_installed(kind: type) -> bool:
    """Return whether a class belongs to an installed package."""
    module = sys.modules.get(kind.__module__.partition(".")[0])
    return "site-packages" in (getattr(module, "__file__", None) or "")


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)
