from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import memory, resident_memory

KIB = 1024


@pytest.fixture
def layer():
    return nn.Linear(256, 256, bias=False)


def test_saved_bytes_are_whole_storages_once_without_parameters(layer):
    x = torch.zeros(2, 256)  # 2 KiB

    def step():
        hidden = layer(x)  # saves x and the weight
        (hidden.exp() * hidden[:1]).sum().backward()  # saves the exponential, which is a factor too, and hidden

    assert memory.saved_bytes(step, layer) == 3 * 2 * KIB


def test_the_peak_counts_what_is_live_at_once(layer):
    def step():
        first = torch.zeros(64 * KIB, dtype=torch.uint8)
        del first
        second = torch.zeros(48 * KIB, dtype=torch.uint8)
        third = torch.zeros(32 * KIB, dtype=torch.uint8)
        del second, third

    assert memory.peak_bytes(step, layer, [layer.weight, layer.weight]) == (256 + 80) * KIB


def test_the_peak_does_not_count_old_gradients_twice(layer):
    def step():
        layer.zero_grad(set_to_none=True)
        layer.weight.grad = torch.zeros_like(layer.weight)

    assert memory.peak_bytes(step, layer, [layer.weight]) == 2 * 256 * KIB


@pytest.mark.skipif(not resident_memory.available(), reason="needs /proc/self/clear_refs")
def test_a_process_grows_by_the_bytes_of_its_network_at_least():
    grown = resident_memory.grown_bytes("2C2F", "stock, NCHW", torch.device("cpu"))
    # A batch of 512 has 10.9 MiB of activations saved for the backward pass alone.
    assert 11 * KIB**2 < grown < 4096 * KIB**2
