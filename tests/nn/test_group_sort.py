import copy

import pytest
import torch

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.nn import GroupSort, MinMax


def test_groups_are_adjacent_channels():
    x = torch.tensor([[3.0, 1.0, 2.0, 9.0, 7.0, 8.0]])
    assert GroupSort(3)(x).tolist() == [[1.0, 2.0, 3.0, 7.0, 8.0, 9.0]]


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3), (5, 8, 3, 4)])
def test_pairs_are_minmax(shape):
    x = torch.randn(shape)
    assert torch.equal(GroupSort(2)(x), MinMax()(x))


def test_channels_last_gives_the_same():
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(GroupSort(3)(x.contiguous(memory_format=torch.channels_last)), GroupSort(3)(x))


def test_the_gradient_goes_where_the_value_came_from():
    x = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    (GroupSort(3)(x) * torch.tensor([[1.0, 10.0, 100.0]])).sum().backward()
    assert x.grad.tolist() == [[100.0, 1.0, 10.0]]


def test_a_nan_spoils_its_group_alone():
    x = torch.tensor([[3.0, torch.nan, 2.0, torch.inf, 7.0, -torch.inf]])
    result = GroupSort(3)(x)[0]
    assert result[:3].isnan().all()
    assert result[3:].tolist() == [-torch.inf, 7.0, torch.inf]


def test_an_empty_batch():
    assert GroupSort(3)(torch.zeros(0, 6, 2)).shape == (0, 6, 2)


def test_channels_that_do_not_fit_are_named():
    with pytest.raises(ArchitectureError, match=r"\(2, 7\) has 7; use a multiple of 3"):
        GroupSort(3)(torch.zeros(2, 7))
    with pytest.raises(ConfigError, match="group_size is 1"):
        GroupSort(1)
    assert repr(copy.deepcopy(GroupSort(3))) == "GroupSort(group_size=3)"
