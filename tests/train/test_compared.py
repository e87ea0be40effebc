"""The methods that the paper compares with, trained by the same trainer."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_run import tiny_data, tiny_recipe

from gloro_fast.train import Trainer
from gloro_fast.train.trained_net import load_net


def test_standard_training_knows_no_bottom(tmp_path):
    trainer = Trainer(tiny_recipe(loss="standard", validation_size=10), tiny_data(), tmp_path / "run")
    result = trainer.fit()
    assert [row.phase for row in trainer.state.rows] == ["standard"] * 3
    assert all(row.train_vra is None and row.lipschitz is None for row in trainer.state.rows)
    # The last epoch is kept, and K is still found.
    assert result.selected_epoch == 3
    assert result.lipschitz > 0


def test_lmt_bounds_the_whole_net(tmp_path):
    trainer = Trainer(tiny_recipe(loss="lmt", activation="relu"), tiny_data(), tmp_path / "run")
    trainer.fit()
    net, _ = load_net(tmp_path / "run")
    off_diagonal = net.difference_bounds[~torch.eye(4, dtype=torch.bool)]
    assert torch.allclose(off_diagonal, torch.full_like(off_diagonal, math.sqrt(2)))
    assert trainer.state.rows[-1].train_vra is not None


def test_noise_changes_training_and_repeats(tmp_path):
    weights = []
    for name, noise in (("a", 0.0), ("b", 0.3), ("c", 0.3)):
        trainer = Trainer(tiny_recipe(loss="standard", noise=noise, epochs=1), tiny_data(), tmp_path / name)
        trainer.fit()
        weights.append(torch.cat([parameter.flatten() for parameter in trainer.net.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("loss", ["standard", "lmt"])
def test_loss_falls(tmp_path, loss):
    trainer = Trainer(tiny_recipe(loss=loss, epochs=4), tiny_data(), tmp_path / "run")
    trainer.fit()
    rows = trainer.state.rows
    assert rows[-1].loss < rows[0].loss
