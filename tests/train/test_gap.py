import itertools
import math

import pytest
from tiny_run import tiny_data, tiny_recipe

from gloro_fast import GloRoNet, architectures
from gloro_fast.train import Trainer, gap
from gloro_fast.train.gap import bound_gap
from gloro_fast.train.run_folder import RunFolder


def net(channels=1, side=8, name="2C2F"):
    shape = (channels, side, side)
    return GloRoNet(architectures.build(name, input_shape=shape, num_classes=3), 0.1, shape)


def test_the_gap_is_the_quotient_of_two_bounds():
    tiny = net()
    found = bound_gap(tiny, None)
    assert found == tiny.find_bound("auto").lipschitz / tiny.find_bound("power").lipschitz
    assert 1 < found < 1.01
    assert bound_gap(tiny, 1.0) == tiny.find_bound("auto").lipschitz
    assert not tiny.frozen


@pytest.mark.parametrize("estimate", [0.0, math.inf, math.nan])
def test_no_quotient_of_no_numbers(estimate):
    assert bound_gap(net(), estimate) is None


def test_what_takes_long_is_left_out(monkeypatch):
    # Within the limit on real images: the paper's nets but 8C2F, whose epochs are the longest as well.
    assert net(1, 28).bound_work() < 4e9
    assert net(1, 28, "4C3F").bound_work() < net(3, 32, "6C2F").bound_work() < gap._AFFORDABLE
    monkeypatch.setattr(gap, "_AFFORDABLE", 0.0)
    assert bound_gap(net(), None) is None


@pytest.mark.parametrize("validation_size", [0, 10])
def test_every_robust_epoch_has_it(tmp_path, validation_size):
    trainer = Trainer(tiny_recipe(epochs=2, warmup_epochs=1, validation_size=validation_size), tiny_data(), tmp_path)
    trainer.fit()
    warmup, *robust = trainer.state.rows
    assert warmup.bound_gap is None
    assert all(1 < row.bound_gap < 1.01 for row in robust)
    assert "bound_gap" in RunFolder(tmp_path).metrics.read_text().splitlines()[0]


def test_validation_is_by_the_estimate_and_the_result_by_a_bound(tmp_path):
    trainer = Trainer(tiny_recipe(epochs=1, validation_size=10), tiny_data(), tmp_path)
    result = trainer.fit()
    (row,) = trainer.state.rows
    assert row.validation_lipschitz == pytest.approx(trainer.net.find_bound("power").lipschitz)
    assert result.method == "auto"
    assert result.lipschitz == pytest.approx(row.validation_lipschitz * row.bound_gap)
    assert result.lipschitz > row.validation_lipschitz


@pytest.mark.parametrize("epochs", [1, 3, 10, 11, 25, 100, 800])
def test_the_gap_is_found_some_ten_times_a_run_and_at_its_end(epochs):
    due = [epoch for epoch in range(1, epochs + 1) if gap.is_due(epoch, epochs)]
    assert due[-1] == epochs
    assert min(epochs, 5) <= len(due) <= 10
    assert len({later - earlier for earlier, later in itertools.pairwise(due)}) <= 1
