from __future__ import annotations

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.data import Split, to_float
from gloro_fast.errors import DataError
from gloro_fast.evaluate import Evaluation, evaluate

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
