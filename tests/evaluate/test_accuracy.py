from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.data import Split, to_float
from gloro_fast.errors import DataError
from gloro_fast.evaluate import Evaluation, evaluate
from gloro_fast.evaluate.accuracy import certified_batches

BY_HAND = Evaluation(
    labels=torch.tensor([0, 1, 2, 0]),
    prediction=torch.tensor([0, 1, 1, 0]),
    radius=torch.tensor([0.25, 1.0, 3.0, 0.0], dtype=torch.float64),
    lipschitz=1.0,
    method="power (estimate)",
    logits=torch.zeros(4, 3),
    executed=False,
    real_radius=torch.tensor([0.25, 1.0, 3.0, 0.0], dtype=torch.float64),
)


def test_accuracies_by_hand():
    assert BY_HAND.clean_accuracy == 0.75
    assert [BY_HAND.vra(epsilon) for epsilon in (0.0, 0.2, 0.25, 0.5, 1.0)] == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert BY_HAND.radius_quartiles() == (0.0, 0.0, 0.25)


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_batches_do_not_matter(net, digits, batch_size):
    few = Split(digits.test.images[:20], digits.test.labels[:20])
    found = evaluate(net, few, batch_size)
    whole = net.certify(to_float(few.images))
    assert torch.equal(found.prediction, whole.prediction)
    assert torch.allclose(found.radius, whole.radius, atol=1e-5)
    assert (found.lipschitz, found.method) == (whole.lipschitz, whole.method)


def test_mode_and_weights_stay(net, digits):
    few = Split(digits.test.images[:5], digits.test.labels[:5])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    evaluate(net, few)
    assert net.training
    net.eval()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_labels_beyond_the_classes_are_refused(digits):
    narrow = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 0.1, digits.input_shape)
    with pytest.raises(DataError, match="labels go up to 9 but the net has 3 classes"):
        evaluate(narrow, digits.test)


def test_logits_are_kept_where_they_are_wanted(net, digits):
    few = Split(digits.test.images[:20], digits.test.labels[:20])
    kept, left = evaluate(net, few, 7), evaluate(net, few, 7, keep_logits=False)
    assert torch.equal(kept.logits, torch.cat([c.logits for _, c in certified_batches(net, few, 7)]))
    assert left.logits.shape == (20, 0)
    assert torch.equal(kept.radius, left.radius)


def test_no_batch_is_held_beside_the_one_at_work(digits):
    images = digits.test.images[:64]
    alive, most = weakref.WeakSet(), 0

    class Watching(nn.Module):
        def certify(self, x, executed=False):
            nonlocal most
            alive.add(x)
            most = max(most, len(alive))
            return self.net.certify(x, executed=executed)

    watching = Watching()
    watching.net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.1, digits.input_shape).eval().freeze()
    watching.module, watching.num_classes = watching.net.module, 10
    evaluate(watching, Split(images, digits.test.labels[:64]), 4, keep_logits=False)
    assert most <= 2
