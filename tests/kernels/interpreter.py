"""Triton's interpreter in a process of its own: TRITON_INTERPRET must be set before Triton is imported."""

from __future__ import annotations

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


def _call(module: str, function: str, packed: bytes, planted: tuple[str, str, str] | None) -> bytes:
    from gloro_fast.kernels import launch_table, minmax_tiles

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # fills what is empty, so that nothing left unwritten is right by chance
    # Few programs of little work each, so that small inputs go through all loops.
    minmax_tiles.entry_of_current_device = lambda: launch_table.Entry(tile_bytes=4096, warps=1, programs=3)
    kernels = planting.planted(module, *planted) if planted else importlib.import_module(f"gloro_fast.kernels.{module}")
    arguments = pickle.loads(packed)
    result = getattr(kernels, function)(*arguments)
    return pickle.dumps((result, arguments))
