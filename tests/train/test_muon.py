from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_run import tiny_recipe
from torch import nn

from gloro_fast.errors import ConfigError
from gloro_fast.train.build import build_optimizer
from gloro_fast.train.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12), (1, 5), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_singular_vectors_stay_and_values_come_near_one(shape, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalized(matrix.to(dtype)).double()
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = u.mT @ found @ vh.mT
    tolerance = 0.08 if dtype is torch.bfloat16 else 1e-3
    assert (values - values.diag().diag()).abs().max() < tolerance
    assert values.diag().min() > 0.68 - tolerance
    assert values.diag().max() < 1.21 + tolerance


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_a_gradient_does_not_matter(scale):
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalized(matrix * scale), orthogonalized(matrix), atol=1e-5)
    assert torch.equal(orthogonalized(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_it_is_torchs_muon_on_matrices():
    weights = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(weights.clone()), nn.Parameter(weights.clone())
    muon = Muon([ours], 0.1, weight_decay=0.4, dtype=torch.bfloat16)
    oracle = torch.optim.Muon([theirs], 0.1, weight_decay=0.4)
    for seed in range(5):
        gradient = torch.randn(6, 10, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        oracle.step()
    assert torch.allclose(ours, theirs, atol=5e-3)
    assert (ours - weights).abs().max() > 0.1


def test_the_step_of_a_convolution_has_the_norm_of_the_rate():
    convolution = nn.Conv2d(4, 8, 3, padding=1, bias=False)
    before = convolution.weight.detach().clone()
    convolution(torch.randn(2, 4, 16, 16)).square().sum().backward()
    Muon(convolution.parameters(), 0.5).step()
    with torch.no_grad():
        convolution.weight.sub_(before)
        columns = torch.eye(4 * 12 * 12).view(-1, 4, 12, 12)
        norm = torch.linalg.matrix_norm(convolution(columns).flatten(1), 2)
    # Between what the centre of the kernel has alone and the bound sqrt(3 * 3) of Muon's convention.
    assert 0.2 < norm / 0.5 < 1.21


@pytest.mark.parametrize("shape", [(16, 12), (8, 4, 3, 3), (20,)])
def test_weight_decay_holds_norms_at_its_reciprocal(shape):
    parameter = nn.Parameter(torch.zeros(shape))
    muon = Muon([parameter], 0.1, weight_decay=0.5)
    # The same gradient throughout drives it to the border.
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for _ in range(200):
        muon.step()
    found = parameter.detach()
    if len(shape) == 1:
        assert found.square().mean().sqrt().item() == pytest.approx(0.25 * 2, rel=1e-3)
        return
    values = torch.linalg.svdvals(found.flatten(1)) * math.sqrt(math.prod(shape[2:]))
    assert values.min() > 0.68 * 2
    assert values.max() < 1.21 * 2


def test_rates_may_be_tensors_and_layout_does_not_matter():
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    steps = Muon(plain.parameters(), 0.1, 0.2), Muon(other.parameters(), torch.tensor(0.1), 0.2)
    for _ in range(3):
        for convolution, muon in zip((plain, other), steps, strict=True):
            muon.zero_grad()
            convolution(torch.ones(1, 4, 5, 5)).square().sum().backward()
            muon.step()
    assert torch.allclose(plain.weight, other.weight, atol=1e-5)
    assert torch.allclose(plain.bias, other.bias, atol=1e-5)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)


def test_what_has_no_gradient_stays_and_a_closure_is_called():
    moved, still = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    muon = Muon([moved, still], 0.1)

    def closure() -> float:
        muon.zero_grad()
        loss = moved.square().sum()
        loss.backward()
        return loss.item()

    assert muon.step(closure) == 9
    assert not torch.equal(moved, torch.ones(3, 3))
    assert torch.equal(still, torch.ones(3, 3))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_recipe_decides_rate_and_decay(optimizer):
    recipe = tiny_recipe(optimizer=optimizer, learning_rate=0.03, weight_decay=0.4, precision="bfloat16")
    found = build_optimizer(nn.Linear(2, 2), recipe)
    assert isinstance(found, Muon if optimizer == "muon" else torch.optim.Adam)
    (group,) = found.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.4)
    assert group.get("dtype", torch.bfloat16) is torch.bfloat16
    assert group.get("decoupled_weight_decay", True)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": math.nan}, {"weight_decay": -0.1}, {"momentum": 1.0}])
def test_unusable_numbers_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"Muon's {name} is"):
        Muon([nn.Parameter(torch.ones(2, 2))], **wrong)
