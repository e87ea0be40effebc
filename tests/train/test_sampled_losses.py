"""Losses of the smoothed classifier against their definitions, and the runs that train with them."""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist

import pytest
import small_nets
import torch
from tiny_run import tiny_data, tiny_recipe
from torch import nn

from gloro_fast.errors import ConfigError
from gloro_fast.losses import MacerLoss, SampledLoss, SmoothAdvLoss
from gloro_fast.train import Trainer
from gloro_fast.train.objective import sampled_loss

SHAPE, CLASSES, NOISE = (1, 2, 2), 3, 0.5
PHI = NormalDist()


def linear(scale=1.0):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES, bias=False)).double()
    with torch.no_grad():
        module[1].weight.mul_(scale)
    return module


def batch(rows=12, samples=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(rows, *SHAPE, generator=generator, dtype=torch.float64)
    noise = NOISE * torch.randn(rows * samples, *SHAPE, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (rows,), generator=generator), noise


def softmax(values, sharpness=1.0):
    powers = [exp(sharpness * value) for value in values]
    return [power / sum(powers) for power in powers]


def average(rows, sharpness=1.0):
    return [sum(column) / len(rows) for column in zip(*(softmax(row, sharpness) for row in rows), strict=True)]


def macer_by_hand(logits, labels, criterion):
    """The loss of each row, and which rows have a hinge."""
    losses, hinged = [], []
    for rows, y in zip(logits.tolist(), labels.tolist(), strict=True):
        sharp = average(rows, criterion.sharpness)
        other = max(q for i, q in enumerate(sharp) if i != y)
        hinge = criterion.margin - PHI.inv_cdf(sharp[y]) + PHI.inv_cdf(other)
        hinged.append(sharp[y] > other and hinge > 0)
        losses.append(-log(average(rows)[y] + 1e-10) + criterion.lam * NOISE / 2 * hinge * hinged[-1])
    return losses, hinged


@pytest.mark.parametrize(("scale", "margin"), [(1.0, 8.0), (3.0, 1.0)])
def test_macer_is_the_definition(scale, margin):
    module, (images, labels, noise) = linear(scale), batch()
    criterion = MacerLoss(3.0, samples=4, sharpness=2.0, margin=margin)
    loss, found = criterion(module, images, labels, noise, NOISE)
    logits = torch.stack([module(image + draws) for image, draws in zip(images, noise.split(4), strict=True)])
    expected, hinged = macer_by_hand(logits, labels, criterion)
    assert 0 < sum(hinged) < len(hinged)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    torch.testing.assert_close(found, logits.softmax(2).mean(1))


def test_macer_grows_the_radius_and_its_gradient_is_finite_where_the_radius_is_not():
    module, (images, labels, noise) = linear(1e3), batch()
    loss, _ = MacerLoss(samples=4)(module, images, labels, noise, NOISE)
    (gradient,) = torch.autograd.grad(loss, module[1].weight)
    assert gradient.isfinite().all()
    module = linear()
    weight = module[1].weight
    with_hinge, without = (
        torch.autograd.grad(MacerLoss(lam, samples=4)(module, images, labels, noise, NOISE)[0], weight)[0]
        for lam in (16.0, 0.0)
    )
    assert not torch.allclose(with_hinge, without)


def smoothed_loss(module, images, labels, noise):
    logits = torch.stack([module(image + draws) for image, draws in zip(images, noise.split(4), strict=True)])
    return -logits.softmax(2).mean(1).gather(1, labels[:, None]).log().squeeze(1)


def test_the_attack_raises_the_loss_of_the_smoothed_classifier_within_the_ball():
    module, (images, labels, noise) = linear(4.0), batch()
    found = SmoothAdvLoss(samples=4).attacked(module, images, labels, noise, 0.3)
    length = (found - images).flatten(1).norm(dim=1)
    assert length.max() <= 0.3 * (1 + 1e-12)
    assert length.median() > 0.15
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = smoothed_loss(module, images, labels, noise), smoothed_loss(module, found, labels, noise)
    assert (after > before).all()


def test_one_step_of_the_attack_is_the_gradient_to_its_length():
    module, (images, labels, noise) = linear(), batch()
    images = 0.25 + images / 2  # Nothing is clipped.
    found = SmoothAdvLoss(samples=4, steps=4).attacked(module, images, labels, noise, 0.0)
    assert torch.equal(found, images)
    found = SmoothAdvLoss(samples=4, steps=1).attacked(module, images, labels, noise, 0.1)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(smoothed_loss(module, images, labels, noise).sum(), images)
    direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(found, (images + 0.1 * direction).detach())


def test_smoothadv_trains_on_the_copies_of_the_attack():
    module, (images, labels, noise) = linear(), batch()
    criterion = SmoothAdvLoss(samples=4, steps=2)
    loss, found = criterion(module, images, labels, noise, NOISE, 0.2)
    attacked = criterion.attacked(module, images, labels, noise, 0.2)
    logits = torch.cat([module(image + draws) for image, draws in zip(attacked, noise.split(4), strict=True)])
    expected = nn.functional.cross_entropy(logits, labels.repeat_interleave(4))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, logits.softmax(1).reshape(12, 4, 3).mean(1))
    assert torch.autograd.grad(loss, module[1].weight)[0].abs().sum() > 0


class Counting(nn.Module):
    """Takes down the mode of each call."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return x


def test_the_attack_takes_the_net_as_it_is_in_evaluation():
    """BatchNorm's statistics move once a step, by the copies that are trained on; a frozen layer stays in its mode."""
    images, labels, noise = batch()
    counting, norm, frozen = Counting(), nn.BatchNorm2d(1, momentum=None).double(), nn.BatchNorm2d(1).double()
    module = nn.Sequential(counting, norm, frozen, nn.Dropout(0.5), *linear()).train()
    frozen.eval()
    criterion = SmoothAdvLoss(samples=4, steps=3)
    attacked = criterion.attacked(module, images, labels, noise, 0.2)
    assert counting.modes == [False] * 3
    assert norm.num_batches_tracked == 0
    assert torch.equal(criterion.attacked(module, images, labels, noise, 0.2), attacked)
    assert [part.training for part in module] == [True, True, False, True, True, True]
    criterion(module, images, labels, noise, NOISE, 0.2)
    assert counting.modes[-4:] == [False] * 3 + [True]
    assert norm.num_batches_tracked == 1
    trained_on = attacked.repeat_interleave(4, 0) + noise
    torch.testing.assert_close(norm.running_mean, trained_on.mean()[None])


def test_a_failed_attack_leaves_the_modes_as_they_were():
    module, (images, labels, noise) = linear().train(), batch()
    with pytest.raises(RuntimeError, match="index"):
        SmoothAdvLoss(samples=4).attacked(module, images, labels + CLASSES, noise, 0.1)
    assert module.training
    assert module[1].training


@pytest.mark.parametrize("loss", ["smoothadv", "macer"])
def test_a_recipe_trains_with_it(tmp_path, loss):
    fields = {"loss": loss, "noise": 0.2, "lam": "1,2,2", "epsilon_schedule": "0.1,0.3,2", "warmup_epochs": 1}
    trainer = Trainer(tiny_recipe(**fields, epochs=4), tiny_data(), tmp_path / "run")
    trainer.fit()
    rows = trainer.state.rows
    assert [row.phase for row in rows] == ["warmup", *["standard"] * 4]
    # MACER has no radius to train with.
    assert [row.epsilon for row in rows] == [None, *([None] * 4 if loss == "macer" else [0.1, 0.2, 0.3, 0.3])]
    assert [row.lam for row in rows] == [None, *([1.0, 1.5, 2.0, 2.0] if loss == "macer" else [None] * 4)]
    assert rows[-1].train_clean > rows[0].train_clean
    assert trainer.net.epsilon == 0.1


def test_without_noise_it_is_refused():
    with pytest.raises(ConfigError, match=r"noise is 0.0; loss 'macer' needs its deviation"):
        tiny_recipe(loss="macer")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SmoothAdvLoss(samples=0), "samples is 0"),
        (lambda: SmoothAdvLoss(steps=0), "steps is 0"),
        (lambda: MacerLoss(-1.0), "lam, sharpness and margin are -1.0"),
        (lambda: MacerLoss(margin=0.0), "lam, sharpness and margin are 16.0, 16.0 and 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_part_of_a_batch_gets_the_noise_that_it_has_there():
    seen = []

    class Seen(SampledLoss):
        def forward(self, module, images, labels, noise, deviation, epsilon):
            seen.append(noise)
            return noise.mean(), torch.zeros(len(images), 5)

    (images, labels), part = small_nets.batch(5), slice(1, 4)
    net = small_nets.glorot_net()
    for rows, arguments in ((slice(0, 5), ()), (part, (part, 5))):
        generator = torch.Generator().manual_seed(0)
        sampled_loss(net, images[rows], labels[rows], Seen(3), 0.2, generator, *arguments)
    assert torch.equal(seen[1], seen[0][3:12])
