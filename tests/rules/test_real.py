"""Complex numbers are refused: as real parts, weights of 50j would be a map of norm 0."""

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.bounds.scaling import scale
from gloro_fast.errors import ArchitectureError
from gloro_fast.nn import Diagonal, LinearMap, LipschitzConstant, Normalize
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import lipschitz_rule

COMPLEX = torch.full((2, 2), 50j)


class Factor(nn.Module):
    """Multiply by a parameter and take absolute values."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.head = nn.Parameter(factor), nn.Linear(8, 3)

    def forward(self, x):
        return self.head((x * self.factor).abs())


def complex_normalize():
    layer = Normalize([0.5], [0.5])
    layer.std = layer.std * 50j
    return layer


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Factor(torch.full((8,), 50j)), "factor is torch.complex64; use real floating-point numbers"),
        (nn.Linear(8, 3, dtype=torch.complex64), "the module: the weight is torch.complex64; use real floating-point"),
        (nn.Sequential(nn.Linear(8, 3, dtype=torch.complex128)), "0: the weight is torch.complex128; use real"),
        (
            nn.Sequential(complex_normalize(), nn.Linear(8, 3)),
            "0: std is torch.complex64; use real",
        ),
    ],
)
def test_a_net_of_complex_numbers_is_refused(module, words):
    with pytest.raises(ArchitectureError) as caught:
        GloRoNet(module, 0.1, (8,))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_cast_to_complex_numbers_is_refused():
    class Cast(nn.Module):
        def forward(self, x):
            return x.to(torch.complex64).abs()

    with pytest.raises(ArchitectureError, match=r"^0\.to\(\) is torch\.complex64; use real floating-point numbers$"):
        GloRoNet(nn.Sequential(Cast(), nn.Linear(8, 3)), 0.1, (8,))


def test_parameters_that_become_complex_are_refused():
    net = GloRoNet(Factor(torch.ones(8)), 0.1, (8,)).eval()
    assert net.lipschitz > 0
    net.module.factor = nn.Parameter(torch.full((8,), 50j))
    with pytest.raises(ArchitectureError, match=r"factor is torch\.complex64"):
        net.certify(torch.rand(2, 8))


def test_batch_norm_of_complex_numbers_is_refused():
    with pytest.raises(ArchitectureError, match=r"bn: the running variance is torch\.complex64"):
        lipschitz_rule("bn", nn.BatchNorm2d(2).to(torch.complex64), (2, 3, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda tensor: LinearMap(tensor, Geometry((2,))),
        Diagonal,
        lambda tensor: LipschitzConstant(tensor[0, 0]),
        scale,
    ],
)
def test_what_bounds_are_made_of_is_real(make):
    with pytest.raises(ArchitectureError, match=r"is torch\.complex64; use real floating-point numbers"):
        make(COMPLEX)


def test_a_mask_of_whole_numbers_is_real():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 3)
            self.register_buffer("mask", torch.arange(8) % 2 == 0)

        def forward(self, x):
            return self.head(x * self.mask)

    assert GloRoNet(Masked(), 0.1, (8,)).eval().lipschitz == pytest.approx(1.0)
