"""Unrolled matrices against torch's own layers."""

import pytest
import torch
from torch import nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.net.net_fingerprint import structure
from gloro_fast.nn import Conv2d, MinMax

pytest.importorskip("scipy", reason="audit needs scipy: install gloro-fast[audit]")
from gloro_fast.audit.layers import Affine, Pairs, describe_modules, read_layers

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


class Named(MinMax):
    """Computes what it inherits."""

    title = "sorted"

    def __init__(self):
        super().__init__()


class Louder(MinMax):
    def forward(self, x):
        return 2 * super().forward(x)


class Elsewhere(nn.Flatten):
    @property
    def start_dim(self):
        return 1

    @start_dim.setter
    def start_dim(self, value):
        pass


def test_a_subclass_that_only_inherits_is_its_base():
    (found,) = read_layers(Named(), (4, 3, 3))
    assert isinstance(found, Pairs)


@pytest.mark.parametrize("layer", [Louder(), Elsewhere()])
def test_a_subclass_that_computes_something_else_is_not_known(layer):
    for read in (lambda: read_layers(layer, (4,)), lambda: describe_modules(layer)):
        with pytest.raises(ArchitectureError, match=f"is a {type(layer).__name__}"):
            read()


def test_modules_are_described_as_certificates_record_them():
    module = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3, padding="same", dilation=2)),
        nn.Sequential(Conv2d(2, 2, 4, stride=2, padding="same"), MinMax(inplace=True), Named(), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    module[1].note = ("kept", 1)
    module[3].note = "kept"
    described = describe_modules(module)
    assert described == [list(entry) for entry in structure(module)]
    assert any("kept" in settings for name, _, settings in described if name == "1")
    assert not any("kept" in settings for name, _, settings in described if name == "3")
