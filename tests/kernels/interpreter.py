"""Triton's interpreter in a process of its own: TRITON_INTERPRET must be set before Triton is imported."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import planting
import torch

_FLAG = "TRITON_INTERPRET"


class Interpreter:
    """Calls functions of ``gloro_fast.kernels`` with kernels interpreted on CPU tensors."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        os.environ[_FLAG] = "1"
        try:
            self._pool.submit(_is_set).result()  # the process starts, and inherits the flag
        finally:
            del os.environ[_FLAG]

    def call(self, module: str, function: str, *arguments: Any, planted: tuple[str, str, str] | None = None) -> Any:
        """Call ``gloro_fast.kernels.<module>.<function>``; ``planted``: file, old, new of ``planting.planted``.

        What it writes into arguments is written into them here too.
        """
        packed = pickle.dumps(arguments)  # as bytes: torch would pass file descriptors
        result, after = pickle.loads(self._pool.submit(_call, module, function, packed, planted).result())
        for argument, value in zip(arguments, after, strict=True):
            if isinstance(argument, torch.Tensor) and not torch.equal(argument, value):
                argument.copy_(value)
        return result

    def close(self) -> None:
        self._pool.shutdown()


def _is_set() -> bool:
    return _FLAG in os.environ


@functools.cache
def _speed_up() -> None:
    """Make Triton's interpreter several times as fast; only for a process that does nothing but interpret."""
    import triton
    from triton.runtime import interpreter

    language = [triton.language, triton.language.core]
    patch, patched = interpreter._patch_lang, set()

    def patch_once(function: Any) -> Any:
        """Leave the language patched: Triton looks through all of it again in every call of a device function."""
        seen = [id(value) for value in function.__globals__.values()]
        languages = {module for module in language if id(module) in seen}
        if not languages <= patched:
            patch(function)
            patched.update(languages)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = patch_once
    interpreter.ReduceOps.generic_reduce = _reduce
    interpreter._get_np_dtype = _once_per_name(interpreter._get_np_dtype)
    block_type = triton.language.core.block_type
    block_type.with_element_ty = _once_per_name(block_type.with_element_ty)


def _once_per_name(function: Any) -> Any:
    """Keep what a function of types gives: types are made anew all the time, have no hash, and are told by names."""
    known: dict[tuple[str, ...], Any] = {}

    def found(*types: Any) -> Any:
        key = tuple(type_.name for type_ in types)
        if key not in known:
            known[key] = function(*types)
        return known[key]

    return found


def _reduce(reduction: Any, tensors: tuple[Any, ...]) -> list[Any]:
    """Reduce whole halves, neighbours with neighbours, where Triton's own loop calls a function for every element."""
    tensors, axis = reduction.unravel(tensors, reduction.axis)
    while (count := tensors[0].handle.data.shape[axis]) > 1:
        assert count % 2 == 0, "Triton's blocks are powers of two"
        pairs = [
            reduction.to_tensor(tensor.handle.data.take(range(side, count, 2), axis), tensor.dtype)
            for side in (0, 1)
            for tensor in tensors
        ]
        found = reduction.combine_fn.fn(*pairs)
        tensors = found if isinstance(found, tuple) else (found,)
    kept = reduction.keep_dims
    every = tuple(range(tensors[0].handle.data.ndim)) if reduction.axis is None else axis
    return [
        reduction.to_tensor(tensor.handle.data if kept else tensor.handle.data.squeeze(every), tensor.dtype)
        for tensor in tensors
    ]


def _call(module: str, function: str, packed: bytes, planted: tuple[str, str, str] | None) -> bytes:
    from gloro_fast.kernels import launch_table, minmax_tiles

    _speed_up()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # fills what is empty, so that nothing left unwritten is right by chance
    # Few programs of little work each, so that small inputs go through all loops.
    minmax_tiles.entry_of_current_device = lambda: launch_table.Entry(tile_bytes=4096, warps=1, programs=3)
    kernels = planting.planted(module, *planted) if planted else importlib.import_module(f"gloro_fast.kernels.{module}")
    arguments = pickle.loads(packed)
    result = getattr(kernels, function)(*arguments)
    return pickle.dumps((result, arguments))
