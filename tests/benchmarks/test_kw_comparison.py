"""The comparison with KW gives its bound: exact without a perturbation, below every margin found with one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.kw_comparison import compare, kw_margins, plain_layers
from gloro_fast import GloRoNet, architectures
from gloro_fast.data import Split
from gloro_fast.errors import ArchitectureError
from gloro_fast.losses import TradesLoss
from gloro_fast.nn import Conv2d, MinMax

pytest.importorskip("convex_adversarial", reason="KW's bound is convex_adversarial's: install gloro-fast[dev]")
SHAPE, EPSILON = (1, 8, 8), 0.2


@pytest.fixture(scope="module")
def trained():
    """A ReLU 2C2F for three classes of noisy patterns, and images of them."""
    torch.manual_seed(0)
    net = GloRoNet(architectures.build("2C2F", "relu", input_shape=SHAPE, num_classes=3), EPSILON, SHAPE)
    labels = torch.arange(36) % 3
    x = (0.6 * torch.rand(3, *SHAPE)[labels] + 0.4 * torch.rand(36, *SHAPE)).clamp(0, 1)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        net(x, labels, TradesLoss(1.0)).backward()
        optimizer.step()
    return net.eval(), Split(x, labels)


def margins(model, images, classes):
    logits = model(images)
    return logits.gather(1, classes[:, None])[:, 0] - logits.scatter(1, classes[:, None], -torch.inf).amax(1)


def test_without_a_perturbation_it_is_the_margin(trained):
    net, split = trained
    plain = plain_layers(net)
    torch.testing.assert_close(plain(split.images), net.module(split.images))
    found = kw_margins(plain, split.images, split.labels, 0.0)
    torch.testing.assert_close(found, margins(net.module, split.images, split.labels).detach(), rtol=1e-4, atol=1e-4)


def test_it_is_below_the_margins_that_an_attack_finds_and_falls_with_epsilon(trained):
    net, split = trained
    plain = plain_layers(net)
    found = kw_margins(plain, split.images, split.labels, EPSILON)
    assert (kw_margins(plain, split.images, split.labels, 2 * EPSILON) < found).all()
    step = torch.zeros_like(split.images)
    for _ in range(10):
        step.requires_grad_()
        slope = torch.autograd.grad(margins(net.module, split.images + step, split.labels).sum(), step)[0]
        moved = step.detach() - EPSILON * F.normalize(slope.flatten(1), dim=1).view_as(step)
        step = moved * (EPSILON / moved.flatten(1).norm(dim=1).clamp_min(EPSILON))[:, None, None, None]
    attacked = margins(net.module, split.images + step, split.labels).detach()
    assert (found <= attacked + 1e-5).all()


def test_verdicts_and_seconds_of_both_stand_side_by_side(trained):
    net, split = trained
    found = compare(net, split, EPSILON)
    assert torch.equal(found.ours, net.certify(split.images, epsilon=EPSILON).certified)
    assert found.ours.any()
    lines = found.rows()
    assert len(lines) == 2 + 36
    counts = found.summary()[2]
    both = int((found.ours & found.theirs).sum())
    assert counts.startswith(f"certified by both {both}, ")
    assert min(found.bound_seconds, found.our_seconds, found.their_seconds) > 0
    net.unfreeze()


def test_layers_without_a_dual_are_named(trained):
    minmax = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), MinMax(), nn.Linear(4, 3)), 0.1, SHAPE)
    with pytest.raises(ArchitectureError, match="2 is a MinMax, of which KW's package knows no dual"):
        plain_layers(minmax)
    uneven = nn.Sequential(Conv2d(1, 2, 4, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    with pytest.raises(ArchitectureError, match="pads its sides differently"):
        plain_layers(GloRoNet(uneven, 0.1, SHAPE))


def test_the_command_explains_itself():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kw_comparison", "--help"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert "convex relaxation of Wong and Kolter" in done.stdout
