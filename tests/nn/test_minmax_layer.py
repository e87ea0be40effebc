from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn import MinMax


def test_sorts_pairs_and_leaves_its_input_alone() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    assert MinMax()(x).tolist() == [[1.0, 3.0, 2.0, 4.0]]
    assert x.tolist() == [[3.0, 1.0, 2.0, 4.0]]


def test_in_place_on_request() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    assert MinMax(inplace=True)(x) is x
    assert x.tolist() == [[1.0, 3.0, 2.0, 4.0]]


def test_odd_channels_are_named() -> None:
    with pytest.raises(ArchitectureError, match=r"\(2, 3, 4, 4\) has 3 channels"):
        MinMax()(torch.zeros(2, 3, 4, 4))


def test_shows_and_copies_its_setting() -> None:
    assert repr(MinMax()) == "MinMax()"
    assert repr(MinMax(inplace=True)) == "MinMax(inplace=True)"
    assert copy.deepcopy(MinMax(inplace=True)).inplace


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_training_in_place_gives_the_same_gradients(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), MinMax(), nn.Conv2d(8, 4, 3), MinMax(), nn.Flatten(), nn.Linear(64, 6), MinMax()
    ).to(memory_format=memory_format)
    other = copy.deepcopy(net)
    for layer in other:
        if isinstance(layer, MinMax):
            layer.inplace = True
    x = torch.randn(5, 3, 8, 8).contiguous(memory_format=memory_format)
    for each in (net, other):
        each(x).square().sum().backward()
    assert torch.equal(net(x), other(x))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("inplace", [False, True])
def test_keeps_one_bit_a_pair_for_the_backward_pass(inplace: bool) -> None:
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    x = torch.randn(4, 16, 8, 8, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        MinMax(inplace)(x)
    if all(tensor.dtype == torch.uint8 for tensor in saved):  # the compiled op
        assert sum(tensor.numel() for tensor in saved) == x.numel() // 16
    else:
        pytest.skip("plain PyTorch stands in, which keeps a byte a pair and more")
