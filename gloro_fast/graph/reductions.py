"""Means, sums and extremes over dimensions of each image."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gloro_fast.graph.call import Call
from gloro_fast.graph.node import Fixed, Node
from gloro_fast.graph.operations import Function
from gloro_fast.nn.rules import LipschitzConstant

MEANS = (torch.mean, "mean")
SUMS = (torch.sum, "sum")
EXTREMES = (torch.amax, torch.amin, "amax", "amin")


def reduce(call: Call, nodes: list[Node]) -> Node:
    """Reduce dimensions: n elements have a mean of constant 1/sqrt(n), a sum of sqrt(n), a largest of 1."""
    given, keepdim = (
        call.read("dim", "keepdim", keepdim=False) if call.args[1:] or "dim" in call.keywords else (None, 0)
    )
    if given is None:
        raise call.mixes()
    dims = call.dims(given)
    count = math.prod(call.input.value.shape[dim] for dim in dims)
    function: Any = getattr(torch, call.function) if isinstance(call.function, str) else call.function
    if function is torch.mean:
        root = math.nextafter(1 / math.sqrt(count), math.inf)
    else:
        root = math.nextafter(math.sqrt(count), math.inf) if function is torch.sum else 1.0
    known = LipschitzConstant(math.nextafter(root, math.inf) if root != 1.0 else 1.0)
    operation = Function(function, after=(tuple(dims), bool(keepdim)))
    assert isinstance(call.output, Tensor)
    return Node(call.where, operation, (call.input.index,), Fixed(call.where, known), call.shape)
