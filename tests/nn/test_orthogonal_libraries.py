"""Orthogonal layers of other packages, as they were trained: bounded by the weight that they apply."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError
from gloro_fast.nn import MinMax


def exact_norm(module, shape):
    """Return the norm of a linear module in float64, with its weights as the float32 numbers that they are."""
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            rows = basis @ module.weight.double().T
        else:
            rows = module._conv_forward(basis, module.weight.double(), None)
        return torch.linalg.matrix_norm(rows.flatten(1), 2).item()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("SpectralConv2d", {"kernel_size": 3, "padding": 1}),
        ("SpectralConv2d", {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}),
        ("SpectralConv1d", {"kernel_size": 3, "padding": 1}),
    ],
)
def test_torchlips_convolutions_are_read_as_they_are_in_evaluation(kind, settings):
    torchlip = pytest.importorskip("deel.torchlip", reason="install gloro-fast[examples]")
    torch.manual_seed(0)
    flat = kind == "SpectralConv1d"
    layer = getattr(torchlip, kind)(1, 8 if flat else 4, **settings)
    shape = (1, 8) if flat else (1, 4, 4)
    layer(torch.rand(2, *shape))
    net = GloRoNet(nn.Sequential(layer, MinMax(), nn.Flatten(), nn.Linear(64, 3, bias=False)).eval(), 0.1, shape).eval()
    exact = exact_norm(layer, shape)
    assert exact < net.freeze("tight").bound.layers[0].value < exact * (1 + 2e-6)
    assert exact < 1 + 1e-4
    certificate = net.certify(torch.rand(4, *shape), executed=True)
    assert (certificate.radius < certificate.real_radius).all()


def test_torchlips_symmetric_padding_is_refused():
    torchlip = pytest.importorskip("deel.torchlip", reason="install gloro-fast[examples]")
    layer = torchlip.SpectralConv2d(1, 4, 5, padding=2, padding_mode="symmetric").eval()
    with pytest.raises(ArchitectureError, match="computes something else than its settings and weight say"):
        GloRoNet(nn.Sequential(layer, nn.Flatten(), nn.Linear(256, 3)), 0.1, (1, 8, 8))


class Iterating(nn.Module):
    """A spectral normalization that keeps its vector as a parameter, and moves it whenever the weight is read."""

    def __init__(self, weight):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(weight.shape[1]), requires_grad=False)

    def forward(self, weight):
        with torch.no_grad():
            self.vector.copy_(nn.functional.normalize(weight.T @ (weight @ self.vector), dim=0))
        return weight / (weight @ self.vector).norm()


def test_a_weight_that_moves_when_it_is_read_is_refused_in_evaluation():
    # As in orthogonium: what is bounded would not be what is applied next.
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    parametrize.register_parametrization(layer, "weight", Iterating(layer.weight))
    net = nn.Sequential(layer, MinMax(), nn.Linear(6, 3)).eval()
    for _ in range(20):
        # Until reading it twice gives the same but for rounding.
        net(torch.rand(1, 8))
    with pytest.raises(ArchitectureError, match=r"changes its parameter 0\.parametrizations\.weight\.0\.vector in"):
        GloRoNet(net, 0.1, (8,))
    parametrize.remove_parametrizations(layer, "weight")
    assert GloRoNet(net, 0.1, (8,)).eval().certify(torch.rand(2, 8)).radius.shape == (2,)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2)])
def test_orthogoniums_convolutions_are_bounded_once_their_weight_is_given(kernel, stride):
    orthogonium = pytest.importorskip(
        "orthogonium.layers", reason="no part of an extra: pip install orthogonium==0.0.4"
    )
    torch.manual_seed(0)
    layer = orthogonium.AdaptiveOrthoConv2d(4, 4, kernel, stride=stride, padding=kernel // 3)
    layer = parametrize.remove_parametrizations(layer.eval(), "weight")
    features = 4 * (8 // stride) ** 2
    net = GloRoNet(nn.Sequential(layer, MinMax(), nn.Flatten(), nn.Linear(features, 3)), 0.1, (4, 8, 8)).eval()
    exact = exact_norm(layer, (4, 8, 8))
    assert exact < net.freeze("tight").bound.layers[0].value < 1 + 1e-4
