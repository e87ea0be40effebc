"""Forwards that ask what kind of thing they were given. Branches that are not taken would give something else."""

import functools
import numbers

import numpy as np
import torch
from torch import Tensor, nn

from module_pieces.registry import BOTH, IMAGES, each, written


def only_if(answer, x):
    """Return a scaled x where the answer is yes, and something else where it is no."""
    return x * 0.5 if answer else 1.0 - 2.0 * x


def _as_list(x):
    if isinstance(x, torch.Tensor):
        x = [x]
    return torch.cat([*x, x[0] * 0.5], dim=1)


@functools.singledispatch
def _dispatched(x):
    return -x


@_dispatched.register
def _(x: Tensor):
    return x * 0.5


def _matched(x):
    match x:
        case torch.Tensor(ndim=2 | 4):
            return x * 0.5
        case _:
            return -x


def _of_dict(x):
    try:
        return -x["image"]
    except (TypeError, IndexError):
        return x * 0.5


def _known_answer(x):
    if not isinstance(x, Tensor):
        raise TypeError(f"a tensor is needed, not {type(x).__name__}")
    return x * 0.5


TYPES = {
    "isinstance(x, torch.Tensor)": lambda x: only_if(isinstance(x, torch.Tensor), x),
    "not isinstance(x, torch.Tensor)": lambda x: -x if not isinstance(x, torch.Tensor) else x * 0.5,
    "x = [x] if it is a Tensor": _as_list,
    "raise TypeError unless it is a Tensor": _known_answer,
    "torch.is_tensor(x)": lambda x: only_if(torch.is_tensor(x), x),
    "isinstance(x, (list, tuple))": lambda x: only_if(not isinstance(x, list | tuple), x),
    "isinstance(x, nn.Parameter)": lambda x: only_if(not isinstance(x, nn.Parameter), x),
    "isinstance(x, np.ndarray)": lambda x: only_if(not isinstance(x, np.ndarray), x),
    "isinstance(x, numbers.Number)": lambda x: only_if(not isinstance(x, numbers.Number), x),
    "callable(x)": lambda x: only_if(not callable(x), x),
    "x is None": lambda x: only_if(x is not None, x),
    "hasattr(x, 'shape')": lambda x: only_if(hasattr(x, "shape"), x),
    "hasattr(x, 'foo')": lambda x: only_if(not hasattr(x, "foo"), x),
    "hasattr(x, 'tensors')": lambda x: x.tensors * 2 if hasattr(x, "tensors") else x * 0.5,
    "getattr(x, 'foo', default)": lambda x: x * getattr(x, "foo", 0.5),
    "getattr(x, 'scale', None)": lambda x: only_if(getattr(x, "scale", None) is None, x),
    "functools.singledispatch": _dispatched,
    "match": _matched,
    "try x['image']": _of_dict,
    "torch.is_floating_point(x)": lambda x: only_if(torch.is_floating_point(x), x),
    "x.is_floating_point()": lambda x: only_if(x.is_floating_point(), x),
    "torch.is_complex(x)": lambda x: only_if(not torch.is_complex(x), x),
    "x.dtype == torch.float32": lambda x: only_if(x.dtype == torch.float32, x),
    "x.dtype is torch.float32": lambda x: only_if(x.dtype is torch.float32, x),
    "x.dtype in a set": lambda x: only_if(x.dtype in {torch.float32, torch.float64}, x),
    "x.dtype as a key": lambda x: x * {torch.float32: 0.5, torch.float16: 2.0}.get(x.dtype, 3.0),
    "str(x.dtype)": lambda x: only_if("float32" in str(x.dtype), x),
    "torch.finfo(x.dtype)": lambda x: only_if(torch.finfo(x.dtype).bits == 32, x),
    "x.dtype != x.to's": lambda x: only_if(x.to(torch.float32).dtype == x.dtype, x),
    "x.device.type": lambda x: only_if(x.device.type == "cpu", x),
    "x.is_cuda": lambda x: only_if(not x.is_cuda, x),
    "x.layout": lambda x: only_if(x.layout == torch.strided, x),
    "x.is_sparse": lambda x: only_if(not x.is_sparse, x),
    "x.ndim in a tuple": lambda x: only_if(x.ndim in (2, 4), x),
    "x.dim() > 1": lambda x: only_if(x.dim() > 1, x),
    "bool(x.shape)": lambda x: only_if(x.shape, x),
    "isinstance(x.shape[1], int)": lambda x: only_if(isinstance(x.shape[1], int), x),
    "type(x.shape[1]) is int": lambda x: only_if(type(x.shape[1]) is int, x),
    "isinstance(x.size(1), numbers.Integral)": lambda x: only_if(isinstance(x.size(1), numbers.Integral), x),
    "isinstance(x.shape, tuple)": lambda x: only_if(isinstance(x.shape, tuple), x),
    "isinstance(x.shape, torch.Size)": lambda x: only_if(isinstance(x.shape, torch.Size), x),
    "torch.compiler.is_compiling()": lambda x: only_if(not torch.compiler.is_compiling(), x),
    "torch.jit.is_scripting()": lambda x: only_if(not torch.jit.is_scripting(), x),
    "torch.jit.is_tracing()": lambda x: only_if(not torch.jit.is_tracing(), x),
}
# What runs a forward on anything but plain tensors cannot answer these, and should say so.
EXACT_TYPES = {
    "type(x) is torch.Tensor": lambda x: only_if(type(x) is torch.Tensor, x),
    "type(x) == Tensor": lambda x: only_if(type(x) == Tensor, x),  # noqa: E721
    "type(x) in a tuple": lambda x: only_if(type(x) in (torch.Tensor, nn.Parameter), x),
    "x.__class__ is Tensor": lambda x: only_if(x.__class__ is Tensor, x),
    "type(x).__name__": lambda x: only_if(type(x).__name__ == "Tensor", x),
}
# These may differ from call to call.
DOUBTFUL = {
    "x.is_contiguous()": lambda x: only_if(x.is_contiguous(), x),
    "isinstance(x.shape[0], int)": lambda x: only_if(isinstance(x.shape[0], int), x),
    "type(x.shape[0]) is int": lambda x: only_if(type(x.shape[0]) is int, x),
    "torch.is_autocast_enabled": lambda x: only_if(not torch.is_autocast_enabled("cpu"), x),
}
IMAGES_ONLY = {
    "x.ndim == 4": lambda x: only_if(x.ndim == 4, x),
    "assert x.dim() == 4": lambda x: _asserted(x) * 0.5,
    "len(x.shape) == 4": lambda x: only_if(len(x.shape) == 4, x),
}


def _asserted(x):
    assert x.dim() == 4, f"expected 4 dimensions, got {x.shape}"
    return x


each(__name__, TYPES, ranks=BOTH)
each(__name__, IMAGES_ONLY, ranks=IMAGES)
each(__name__, EXACT_TYPES, ranks=BOTH, legal=False)
each(__name__, DOUBTFUL, ranks=BOTH, legal=False)


@written("isinstance of its own layer", lambda self, choose, shape: setattr(self, "layer", nn.Linear(shape[-1], 6)))
def of_layer(self, x):
    return only_if(isinstance(self.layer, nn.Linear), self.layer(x))


@written("asks its weight", lambda self, choose, shape: setattr(self, "weight", nn.Parameter(torch.rand(6, shape[-1]))))
def of_weight(self, x):
    y = x @ self.weight.t() / 3
    return only_if(isinstance(self.weight, nn.Parameter) and isinstance(self.weight, Tensor), y)


@written("asks a buffer", lambda self, choose, shape: self.register_buffer("scale", torch.full((1,), 0.7)), ranks=BOTH)
def of_buffer(self, x):
    return only_if(type(self.scale) is torch.Tensor and self.scale.dtype == x.dtype, x * self.scale)
