"""CUDA graphs as they behave, on the CPU: operations recorded without being done, and replayed without Python.

Tensors keep their place in memory, and the numbers that Python passed keep their value: a replay does again what was
recorded, with whatever lies in the tensors then.
"""

from contextlib import nullcontext
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from gloro_fast.ops import scalar

# What a graph cannot hold: it waits for the device, or copies a number from Python's memory.
FORBIDDEN = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::_unique2",
    "aten::lift_fresh",
    "aten::item",
    "aten::equal",
    "aten::is_nonzero",
}


class Recording(TorchDispatchMode):
    """Logs every operation, and takes back what it wrote when the recording ends."""

    def __init__(self) -> None:
        super().__init__()
        self.log = []
        self._made = set()
        self._before = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in _written(func, args, kwargs):
            self._keep(tensor)
        out = func(*args, **kwargs)
        name = func._schema.name
        if name in FORBIDDEN or indexes_by_mask(name, args):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        self.log.append((func, args, kwargs, out))
        given = {_place(tensor) for tensor in _tensors((args, kwargs))}
        self._made |= {_place(tensor) for tensor in _tensors(out)} - given
        return out

    def _keep(self, tensor):
        place = _place(tensor)
        if place not in self._made and place not in self._before:
            self._before[place] = (tensor, tensor.untyped_storage().clone())

    def undo(self):
        """Put back what was there: recording does nothing."""
        with _disable_current_modes():
            for tensor, storage in self._before.values():
                tensor.untyped_storage().copy_(storage)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.log:
                given = {_place(tensor) for tensor in _tensors((args, kwargs))}
                for old, new in zip(_tensors(out), _tensors(func(*args, **kwargs)), strict=True):
                    if _place(old) not in given:
                        old.copy_(new)


class FakeRecorder:
    """Stands in for ``CudaRecorder``."""

    def __init__(self, device=None) -> None:
        self.recordings = []
        self.replays = 0

    def beside(self):
        return nullcontext()

    def record(self, work):
        recording = Recording()
        try:
            # Numbers are read where they lie, as on a GPU whose stream is captured.
            with mock.patch.object(scalar, "is_capturing", return_value=True), recording:
                work()
        finally:
            recording.undo()
        self.recordings.append(recording)

        def replay():
            self.replays += 1
            recording.replay()

        return replay


def _place(tensor):
    return tensor.untyped_storage()._cdata


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


# It writes the running statistics, of which its schema does not tell.
BATCH_NORM = "aten::native_batch_norm"


def _written(func, args, kwargs):
    if func._schema.name == BATCH_NORM:
        yield from _tensors(args[3:5])
    arguments = func._schema.arguments
    for position, argument in enumerate(arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from _tensors(value)


def indexes_by_mask(name, args):
    return name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )
