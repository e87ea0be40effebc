"""What the certificates claim, tried out: Theorem 1 by attack, Theorem 2 by pairs, and the paper's "Standard" rows."""

import pytest
import torch
import torch.nn.functional as F

from gloro_fast import GloRoNet, architectures, data
from gloro_fast.evaluate import evaluate
from gloro_fast.losses import TradesLoss

EPSILON = 0.3
SHAPE = (1, 8, 8)


def train(step, parameters, images, labels, epochs):
    optimizer = torch.optim.Adam(parameters, 2e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            step(images[index], labels[index]).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="the digits are in scikit-learn: install gloro-fast[demo]")
    return data.load("digits")


@pytest.fixture(scope="module")
def glorot_net(digits):
    torch.manual_seed(0)
    net = GloRoNet(architectures.build("2C2F", input_shape=SHAPE, num_classes=10), EPSILON, SHAPE)
    images = data.to_float(digits.train.images)
    criterion = TradesLoss(1.0)
    train(lambda x, y: net(x, y, criterion), net.parameters(), images, digits.train.labels, 15)
    return net.eval()


def test_training_certifies_most_of_the_test_set(glorot_net, digits):
    evaluation = evaluate(glorot_net, digits.test)
    assert evaluation.clean_accuracy > 0.93
    assert 0.5 < evaluation.vra(EPSILON) <= evaluation.clean_accuracy


def test_a_standard_net_certifies_nothing(digits):
    # As in the paper's "Standard" rows: wrapped in a GloRoNet, its VRA is 0.
    torch.manual_seed(0)
    module = architectures.build("2C2F", "relu", input_shape=SHAPE, num_classes=10)
    images = data.to_float(digits.train.images)
    train(lambda x, y: F.cross_entropy(module(x), y), module.parameters(), images, digits.train.labels, 40)
    evaluation = evaluate(GloRoNet(module, EPSILON, SHAPE).eval(), digits.test)
    assert evaluation.clean_accuracy > 0.95
    assert evaluation.vra(EPSILON) == 0.0


def attack(net, images, labels, radius, steps=100):
    """Projected gradient ascent on the margin of the runner-up within each image's own l2 ball."""
    delta = torch.zeros_like(images)
    for step in range(steps):
        delta.requires_grad_()
        logits = net.module(images + delta)
        top = logits.gather(1, labels[:, None]).squeeze(1)
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((other - top).sum(), delta)
        with torch.no_grad():
            direction = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
            delta = delta + direction * (radius * (2.5 / steps if step else 0.5))[:, None, None, None]
            norm = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            delta = delta * (radius / norm).clamp_max(1.0)[:, None, None, None]
    return images + delta


def test_no_attack_breaks_a_certified_prediction(glorot_net, digits):
    images = data.to_float(digits.test.images)
    certificate = glorot_net.certify(images)
    # The attack's steps are rounded in float32.
    radius = (certificate.radius * (1 - 1e-6)).float()
    attacked = glorot_net.module(attack(glorot_net, images, certificate.prediction, radius)).argmax(1)
    assert torch.equal(attacked[certificate.radius > 0], certificate.prediction[certificate.radius > 0])


def test_the_attack_breaks_a_prediction_beyond_its_radius(glorot_net, digits):
    # Or the test above could not fail.
    images = data.to_float(digits.test.images)
    certificate = glorot_net.certify(images)
    attacked = glorot_net.module(
        attack(glorot_net, images, certificate.prediction, (certificate.radius * 4).float())
    ).argmax(1)
    assert (attacked != certificate.prediction).float().mean() > 0.5


def test_theorem_2_pairs_within_epsilon_get_one_class_or_bottom(glorot_net, digits):
    # The net at epsilon / 2 is epsilon-globally-robust: walk between test images of different classes.
    images, labels = data.to_float(digits.test.images), digits.test.labels
    a = images[torch.randint(len(images), (300,))]
    b = images[torch.randint(len(images), (300,))]
    distance = (b - a).flatten(1).norm(dim=1).clamp_min(1e-6)
    steps = torch.arange(0, 1.0001, 1 / 64)
    points = a[:, None] + (b - a)[:, None] * steps[None, :, None, None, None]
    classes = predictions(glorot_net, points.flatten(0, 1), EPSILON / 2).reshape(300, -1)
    checked = different = 0
    for first in range(len(steps)):
        for second in range(first + 1, len(steps)):
            near = distance * (steps[second] - steps[first]) <= EPSILON
            one, two = classes[near, first], classes[near, second]
            conflict = (one != two) & (one != 10) & (two != 10)
            assert not conflict.any()
            checked += int(((one != 10) & (two != 10)).sum())
            different += int((classes[~near, first] != classes[~near, second]).sum())
    assert checked > 1000
    assert different > 1000
    assert len(labels.unique()) == 10


def predictions(net, images, epsilon):
    certificate = net.certify(images, epsilon)
    return torch.where(certificate.certified, certificate.prediction, 10)
