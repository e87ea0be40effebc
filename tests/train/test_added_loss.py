"""A loss that is added by a file and a line: named by recipes, trained, computed with the margin, and replayed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from fake_graph import FakeRecorder
from tiny_run import tiny_data, tiny_recipe
from torch import Tensor, nn

from gloro_fast import GloRoNet, losses
from gloro_fast.errors import ConfigError
from gloro_fast.losses import Loss, MarginCriterion, registered
from gloro_fast.nn import MinMax
from gloro_fast.train import GraphedStep, Trainer, graphed_step


class HingeLoss(MarginCriterion):
    """max(0, f_i - f_y) over all i other than the label, bottom among them, times lambda."""

    name = "hinge"

    def __init__(self, lam: float = 1.0, reduction: str = "mean", **settings: object) -> None:
        super().__init__(reduction, **settings)
        self.lam = lam

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        true_logit = logits.gather(1, labels[:, None])
        others = logits.scatter(1, labels[:, None], -torch.inf)
        return (others.amax(1) - true_logit[:, 0]).relu() * self.lam_on(logits.device)


class Squared(HingeLoss):
    """A subclass, which may compute anything: it is called with the logits."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits, labels).square()


@pytest.fixture(autouse=True)
def _registered():
    losses.register("hinge", Loss(HingeLoss, has_lambda=True, margins="whole"))
    yield
    losses.LOSSES.pop("hinge")
    registered._criteria.remove(HingeLoss)


def net_and_batch():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), MinMax(), nn.Linear(8, 3))
    return GloRoNet(module, 0.3, (1, 4, 4)).train(), torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def test_a_recipe_trains_with_it(tmp_path):
    recipe = tiny_recipe(loss="hinge", lam="0.5,1,2", epochs=4)
    trainer = Trainer(recipe, tiny_data(), tmp_path / "run")
    trainer.fit()
    rows = trainer.state.rows
    assert [row.lam for row in rows] == [0.5, 0.75, 1.0, 1.0]
    assert rows[-1].loss < rows[2].loss
    assert rows[-1].train_vra is not None
    off_diagonal = trainer.net.eval().difference_bounds[~torch.eye(4, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, math.sqrt(2)))


def test_a_net_computes_it_with_the_margin(monkeypatch):
    net, x, y = net_and_batch()
    criterion = HingeLoss(0.7, weight=torch.tensor([1.0, 2.0, 0.5]))
    two_steps = criterion(copy.deepcopy(net)(x), y)
    monkeypatch.setattr(HingeLoss, "forward", None)
    torch.testing.assert_close(net(x, y, criterion), two_steps)
    assert net.batch_statistics is not None


def test_a_subclass_is_called():
    net, x, y = net_and_batch()
    twin = copy.deepcopy(net)
    torch.testing.assert_close(net(x, y, Squared(0.7)), twin(x, y, HingeLoss(0.7)).square())


def test_a_replayed_step_follows_its_lambda(monkeypatch):
    fake = FakeRecorder()
    monkeypatch.setattr(graphed_step, "recorder_for", lambda device: fake)
    net, x, y = net_and_batch()
    twin, criterion = copy.deepcopy(net), HingeLoss(0.7)
    optimizers = [torch.optim.Adam(each.parameters(), torch.tensor(1e-2), fused=True) for each in (net, twin)]
    step = GraphedStep(net, optimizers[0], criterion)
    for lam in (0.7, 0.7, 0.7, 0.2, 1.5):
        criterion.lam = lam
        expected = twin(x, y, HingeLoss(lam))
        assert torch.equal(step(x, y), expected)
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
    assert fake.replays >= 2


def test_a_name_is_registered_once():
    with pytest.raises(ConfigError, match="there is a loss 'hinge' already"):
        losses.register("hinge", Loss(HingeLoss))


def test_a_misspelt_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"loss is 'hing'.*hinge"):
        tiny_recipe(loss="hing")
