"""Unrolled matrices against torch's own layers."""

import pytest
import torch
from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.nn import Conv2d

pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")
from gloro_fast.audit.layers import Affine, read_layers

CONVOLUTIONS = {
    "plain": nn.Conv2d(2, 3, 3),
    "no bias": nn.Conv2d(2, 3, 3, bias=False),
    "stride and padding": nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilation": nn.Conv2d(2, 2, 2, dilation=(2, 3), padding=1),
    "groups": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(4, 8, 3, groups=4),
    "torch's same": nn.Conv2d(2, 2, (4, 3), padding="same", dilation=(1, 2)),
    "torch's valid": nn.Conv2d(2, 2, 3, padding="valid"),
    "same with stride": Conv2d(2, 3, 4, stride=2, padding="same"),
    "same, odd": Conv2d(2, 3, 3, stride=(3, 2), padding="same"),
    "kernel beyond the image": Conv2d(2, 3, 9, padding="same"),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_matrix_is_the_convolution(case):
    layer = CONVOLUTIONS[case].double()
    x = torch.randn(3, layer.in_channels, 7, 6, dtype=torch.float64)
    (affine,) = read_layers(layer, tuple(x.shape[1:]))
    assert isinstance(affine, Affine)
    found = affine.matrix @ x.flatten(1).numpy().T + affine.bias[:, None]
    torch.testing.assert_close(torch.from_numpy(found.T), layer(x).detach().flatten(1), rtol=1e-13, atol=1e-13)
    assert int((affine.matrix != 0).sum(axis=1).max()) <= affine.terms


def test_what_it_does_not_know_is_named():
    for module, name in (
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "1 is a Tanh"),
        (nn.Sequential(nn.Flatten(0, 1)), "0 is a Flatten"),
    ):
        with pytest.raises(ArchitectureError, match=name):
            read_layers(module, (4,))
    with pytest.raises(ArchitectureError, match="circular"):
        read_layers(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 4, 4))
