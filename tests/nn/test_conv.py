"""SAME padding as TensorFlow pads: ceil(n / stride) outputs, the odd zero at the end."""

import pytest
import torch
import torch.nn.functional as F

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn import Conv2d


@pytest.mark.parametrize("size", [1, 4, 7, 8, 9])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_output_size_is_ceil(size, kernel, stride):
    conv = Conv2d(1, 2, kernel, stride, padding="same")
    assert conv(torch.zeros(1, 1, size, size + 1)).shape[2:] == (-(-size // stride), -(-(size + 1) // stride))


def test_an_odd_number_of_zeros_has_the_extra_one_at_the_end():
    # 7 rows, kernel 4, stride 2: 4 outputs need 3 zeros.
    conv = Conv2d(2, 3, 4, 2, padding="same")
    x = torch.randn(2, 2, 7, 7)
    torch.testing.assert_close(conv(x), F.conv2d(F.pad(x, (1, 2, 1, 2)), conv.weight, conv.bias, stride=2))


def test_without_same_it_is_torchs():
    conv = Conv2d(2, 3, 3, 2, padding=(1, 0))
    stock = torch.nn.Conv2d(2, 3, 3, 2, padding=(1, 0))
    stock.load_state_dict(conv.state_dict())
    x = torch.randn(2, 2, 7, 7)
    assert torch.equal(conv(x), stock(x))


def test_same_is_torchs_where_torch_has_it():
    conv = Conv2d(2, 3, 4, padding="same")
    stock = torch.nn.Conv2d(2, 3, 4, padding="same")
    stock.load_state_dict(conv.state_dict())
    x = torch.randn(2, 2, 7, 7)
    torch.testing.assert_close(conv(x), stock(x))


def test_same_pads_with_zeros_only():
    with pytest.raises(ArchitectureError, match="circular"):
        Conv2d(1, 1, 3, padding="same", padding_mode="circular")
