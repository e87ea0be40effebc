"""Read a pickle of numbers, strings and byte arrays without executing what it may contain.

A pickle names functions and has them called. Here nothing that a file names is ever looked up: the few names
that a NumPy array of bytes needs stand for the inert classes below, and any other name is refused.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_fast.data.causes import cause
from gloro_fast.errors import DataError


class ByteArray:
    """What a pickled NumPy array is read as: its state, not yet looked at.

    Args:
        state: (version, shape, dtype, Fortran order, bytes), as NumPy's own ``__setstate__`` takes it.
    """

    def __init__(self, state: object = None) -> None:
        self._state = state

    def __setstate__(self, state: object) -> None:
        self._state = state

    def tensor(self) -> Tensor:
        """Give the array as a uint8 tensor.

        Raises:
            DataError: the state is not that of an array of unsigned bytes.
        """
        match self._state:
            case (_, tuple(shape), Dtype(code="u1" | "uint8"), False | 0, bytes(body)) if all(
                type(side) is int and side > 0 for side in shape
            ) and math.prod(shape) == len(body):
                return torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(shape)
        raise DataError("holds an array that is not one of unsigned bytes in C order")


class Dtype:
    """Stands for ``numpy.dtype``; keeps only the type's code."""

    def __init__(self, code: str | bytes = "", *_: object) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment: a byte has neither."""


class _Function:
    """Stands for a function that pickles of arrays call; has no state that a pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for a function")


def _reconstruct(*_: object) -> ByteArray:
    """Give an array whose state comes next, as ``_reconstruct`` does in pickle protocols below 5."""
    return ByteArray()


def _from_buffer(body: object, dtype: object, shape: object, order: object) -> ByteArray:
    """Give a whole array, as ``_frombuffer`` does in pickle protocol 5."""
    return ByteArray((None, shape, dtype, order != "C", bytes(body) if isinstance(body, bytearray) else body))


def _encode(text: object, encoding: object) -> bytes:
    """Give the bytes that Python 3 writes as text in pickle protocols below 3."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], type | _Function] = {
    ("numpy", "ndarray"): ByteArray,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _Function(_encode),
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _Function(_reconstruct)
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _Function(_from_buffer)


class _RefusedNameError(pickle.UnpicklingError):
    """The pickle asks for something that a file of arrays has no use for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type | _Function:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _RefusedNameError(f"{module}.{name}") from None


def read(path: Path) -> dict[str, Any]:
    """Read a pickled dictionary, written by Python 2 or 3.

    Args:
        path: the pickle.

    Returns:
        The dictionary, its keys as str; arrays as :class:`ByteArray`, text of Python 2 as bytes.

    Raises:
        DataError: unreadable, damaged, no dictionary, or it asks for something to be called that arrays do
            not need. Nothing in it has run then.
    """
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    except _RefusedNameError as error:
        raise DataError(
            f"{path} asks to load {cause(error)}, which no file of images needs, so it was not read; "
            "do not trust it, and download it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # A damaged pickle may fail in any way at all.
        raise DataError(f"{path} is truncated or no pickle ({cause(error)}); download it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a dictionary; is it another file?")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
