from __future__ import annotations

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet, data
from gloro_fast.losses import TradesLoss
from gloro_fast.nn import MinMax

EPSILON = 0.3


@pytest.fixture(scope="session")
def digits() -> data.DataSet:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return data.load("digits")


@pytest.fixture(scope="session")
def net(digits: data.DataSet) -> GloRoNet:
    """A dense net trained for a second; about three quarters of the digits are certified at 0.3."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), MinMax(), nn.Linear(32, 10))
    for layer in module:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    net = GloRoNet(module, EPSILON, digits.input_shape)
    optimizer, criterion = torch.optim.Adam(net.parameters(), 1e-2), TradesLoss(1.0)
    batches = data.Batches(digits.train, 128, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(8):
        for images, labels in batches:
            optimizer.zero_grad()
            net(images, labels, criterion).backward()
            optimizer.step()
    optimizer.zero_grad()
    return net.eval()
