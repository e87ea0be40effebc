from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError
from gloro_fast.losses import LmtLoss
from gloro_fast.ops import lmt, lmt_reference

EPSILON = 0.4


def test_it_adds_epsilon_times_the_constant_to_the_wrong_logits():
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 2])
    differences = math.sqrt(2) * (1 - torch.eye(4, dtype=torch.float64))
    constant = torch.tensor(1.7, dtype=torch.float64)
    raised = logits + math.sqrt(2) * 1.7 * EPSILON
    raised[range(6), labels] = logits[range(6), labels]
    expected = nn.functional.cross_entropy(raised, labels, reduction="none")
    found = lmt_reference(logits, differences, constant, EPSILON, labels)
    assert torch.allclose(found, expected, atol=1e-14)
    assert torch.equal(lmt(logits, differences, constant, EPSILON, labels)[1], logits.argmax(dim=1))


def test_gradients():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    differences = torch.rand(4, 4, dtype=torch.float64, requires_grad=True)
    constant = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 3])
    assert torch.autograd.gradcheck(
        lambda *arguments: lmt_reference(*arguments, EPSILON, labels), (logits, differences, constant)
    )


def test_with_the_margins_of_the_whole_the_head_is_bounded_by_its_norm_and_trained_through_it():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    net = GloRoNet(module, EPSILON, (1, 4, 4), power_iterations=200, margins="whole")
    x, labels = torch.rand(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    loss = net(x, labels, LmtLoss())
    norms = [torch.linalg.matrix_norm(module[index].weight, 2) for index in (1, 3)]
    logits = module(x)
    raised = logits + math.sqrt(2) * EPSILON * norms[0] * norms[1] * (1 - nn.functional.one_hot(labels, 3))
    expected = nn.functional.cross_entropy(raised, labels)
    assert torch.allclose(loss, expected, atol=1e-6)
    for parameter in (module[1].weight, module[3].weight):
        (ours,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected, parameter, retain_graph=True)
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_in_evaluation_it_is_the_same_with_the_bound():
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), EPSILON, (1, 4, 4)).eval()
    x, labels = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    expected = lmt_reference(net.module(x), net.difference_bounds, torch.tensor(1.0), EPSILON, labels).mean()
    assert torch.allclose(net(x, labels, LmtLoss()).double(), expected, atol=1e-5)


def test_logits_alone_are_refused():
    with pytest.raises(ConfigError, match="net\\(x, labels, criterion\\)"):
        LmtLoss()(torch.zeros(2, 4), torch.tensor([0, 1]))
