"""Means, sums and extremes over dimensions of each image."""

from __future__ import annotations

import math

from gloro_fast.graph.call import Call
from gloro_fast.graph.node import Fixed, Node
from gloro_fast.rules.registry import LipschitzConstant


def reduce(call: Call) -> Node:
    """Read a reduction: n elements have a mean of constant 1/sqrt(n), a sum of sqrt(n); others 1.

    Those are the largest, the smallest, log(sum(exp)), whose gradient is a softmax, and the Euclidean norm.
    """
    given = call.given.get("dim")
    if given is None or given == []:
        raise call.mixes()
    if call.packet == "linalg_vector_norm" and call.given["ord"] != 2:
        raise call.unknown()
    dims = call.dims(given)
    count = math.prod(call.input.value.shape[dim] for dim in dims)
    if call.packet == "mean":
        factor = math.nextafter(math.nextafter(1 / math.sqrt(max(1, count)), math.inf), math.inf)
    elif call.packet == "sum":
        factor = math.nextafter(math.nextafter(math.sqrt(count), math.inf), math.inf)
    else:
        factor = 1.0
    if count == 1:
        factor = 1.0
    return call.of_one(Fixed(call.where, LipschitzConstant(factor)))
