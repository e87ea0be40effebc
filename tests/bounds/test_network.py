"""Layers bounded one by one."""

import torch

from gloro_fast.bounds import bound_network
from gloro_fast.nn import LinearMap, LipschitzConstant
from gloro_fast.ops import Geometry


def test_progress_is_told_after_each_layer():
    told = []
    dense = LinearMap(torch.eye(3) * 2, Geometry((3,)))
    layers = [("first", dense), ("act", LipschitzConstant(1.0)), ("last", dense)]
    # Given as they come: how many there are is known all the same.
    found = bound_network(iter(layers), "auto", progress=lambda *what: told.append(what))
    assert told == [(1, 3, "first"), (2, 3, "act"), (3, 3, "last")]
    assert found == bound_network(layers, "auto")
