"""Last layer normalization, alone and as the head of a net."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_fast import GloRoNet
from gloro_fast.losses import LogitAnnealingLoss
from gloro_fast.nn import MinMax, UnitRows


def net_with_unit_rows():
    torch.manual_seed(0)
    head = register_parametrization(nn.Linear(8, 3), "weight", UnitRows())
    return GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), MinMax(), head), 0.1, (1, 4, 4))


def test_rows_have_norm_one_and_keep_their_directions():
    weight = torch.randn(3, 2, 4)
    weight[1] = 0
    rows = UnitRows()(weight).flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))
    assert torch.nn.functional.cosine_similarity(rows[0], weight[0].flatten(), dim=0) > 0.999999
    head = register_parametrization(nn.Linear(4, 3), "weight", UnitRows())
    head.weight = torch.diag(torch.tensor([5.0, 2.0, 1.0, 1.0]))[:3]
    torch.testing.assert_close(head.weight, torch.eye(3, 4))


def test_bounds_read_the_normalized_rows_and_certificates_cover_their_rounding():
    net = net_with_unit_rows().eval()
    weight = net.module[3].weight.double()
    torch.testing.assert_close(net.difference_bounds, torch.cdist(weight, weight), rtol=1e-9, atol=1e-9)
    before = net.difference_bounds.clone()
    with torch.no_grad():
        net.module[3].parametrizations.weight.original.mul_(4.0)
    torch.testing.assert_close(net.difference_bounds, before, rtol=1e-6, atol=1e-6)
    images = torch.rand(5, 1, 4, 4)
    executed = net.certify(images, executed=True)
    assert (executed.radius < executed.real_radius).all()
    assert (executed.radius > 0.9 * executed.real_radius).all()


def test_it_trains_with_logit_annealing_to_certify():
    net, y = net_with_unit_rows().train(), torch.arange(60) % 3
    x = 0.2 + 0.3 * y[:, None, None, None] + 0.05 * torch.rand(60, 1, 4, 4)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    criterion = LogitAnnealingLoss(offset=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = net(x, y, criterion)
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(net.module[3].weight.norm(dim=1), torch.ones(3))
    certificate = net.eval().certify(x)
    assert (certificate.certified & (certificate.prediction == y)).double().mean() > 0.9
    # The same loss in evaluation, from the logits of the certificates.
    assert torch.isfinite(net(x, y, criterion))
