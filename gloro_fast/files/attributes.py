"""Showing what a module keeps as attributes, so that what is shown changes when what is kept does.

It is the same for copies, after pickling, and on every device: values count, not the objects that hold them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from enum import Enum
from functools import partial
from types import CodeType, EllipsisType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, range, type(None), EllipsisType, torch.dtype, torch.memory_format)
_OF_EVERY_MODULE = frozenset(dir(nn.Module())) | vars(nn.Module()).keys()


def shown_attributes(module: nn.Module) -> str:
    """Show numbers, names, plain containers, callables and settings that ``module`` keeps; nothing if it keeps none.

    Tensors are not shown: a graph reads them, and they are hashed. Neither are objects of other kinds, which may hold
    anything, but their type is.
    """
    kept = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
    kept = {key: value for key, value in kept.items() if not isinstance(value, Tensor)}
    return f" {_shown(kept, ())}" if kept else ""


def shown_settings(module: nn.Module) -> str:
    """Show the settings that ``module`` prints, or, where it cannot print them, what it keeps.

    A convolution of PyTorch computes with ``dilation = 2`` set after it was made, but cannot print it.
    """
    try:
        return str(module.extra_repr())
    except TypeError:
        return shown_attributes(module)


def _shown(value: object, within: tuple[int, ...]) -> str:
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in within:
        return "..."
    within = (*within, id(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_shown(k, within)}: {_shown(v, within)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        brackets = "[]" if isinstance(value, list) else "()"
        return brackets[0] + ", ".join(_shown(item, within) for item in value) + brackets[1]
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_shown(item, within) for item in value)) + "}"
    if isinstance(value, slice):
        return f"slice{_shown((value.start, value.stop, value.step), within)}"
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__}({shown_settings(value)})"
    return _shown_object(value, within)


def _shown_object(value: Any, within: tuple[int, ...]) -> str:
    if isinstance(value, partial):
        return f"partial{_shown((value.func, value.args, value.keywords), within)}"
    if hasattr(value, "tobytes"):  # A number or array of NumPy's.
        return f"{_name(type(value))}{value.dtype, value.shape}#{_digest(value.tobytes())}"
    if isinstance(value, MethodType):
        return f"{_shown(value.__self__, within)}.{_shown(value.__func__, within)}"
    if not callable(value) and not dataclasses.is_dataclass(value) and not isinstance(value, SimpleNamespace):
        return _name(type(value))
    if not hasattr(value, "__qualname__"):
        return f"{_name(type(value))}{_shown(getattr(value, '__dict__', {}), within)}"
    if isinstance(value, FunctionType) and (
        "<" in value.__qualname__ or not str(value.__module__).startswith("torch.")
    ):
        # Lambdas and inner functions go by one name, and a name may be given to another function.
        inner = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        rest = (_code(value.__code__), value.__defaults__, value.__kwdefaults__, inner)
        return f"{_name(value)}#{_digest(_shown(rest, within).encode())}"
    return _name(value)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _code(code: CodeType) -> tuple[object, ...]:
    constants = tuple(_code(part) if isinstance(part, CodeType) else part for part in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
