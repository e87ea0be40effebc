"""Relaxed top-k and affinity robustness by brute force: on linear nets, where the true radius is known, and others."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError
from gloro_fast.evaluate import certify_relaxed
from gloro_fast.losses import CrossEntropyLoss, RelaxedLoss
from gloro_fast.nn import MinMax
from gloro_fast.ops import relaxed_margin, relaxed_radii
from gloro_fast.ops.certify import certified_radius
from gloro_fast.ops.relaxed_margin_op import allowed_sets, read_relaxation

pytestmark = pytest.mark.filterwarnings("ignore:images. pixels range")
CLASSES, EPSILON = 6, 0.2
RELAXATIONS = [1, 2, 3, 5, [{0, 1}, {1, 2, 3}, {5}], [[4, 5, 0, 2, 1]], [{0, 2}, {1, 3}]]


def linear_net():
    """f(x) = W x + b, with two rows alike, so that bounds of pairs differ by much."""
    torch.manual_seed(0)
    head = nn.Linear(4, CLASSES).double()
    with torch.no_grad():
        head.weight[3] = head.weight[1] + 0.01 * torch.randn(4)
    return GloRoNet(nn.Sequential(nn.Flatten(), head), EPSILON, (1, 2, 2)).eval()


def is_allowed(top, relaxation):
    if isinstance(relaxation, int):
        return len(top) <= relaxation
    return len(top) == 1 or any(top <= set(members) for members in relaxation)


def true_radius(weight, logits, relaxation):
    """The largest distance at which the set of the k largest logits of a linear net stays, over all k allowed."""
    order = sorted(range(CLASSES), key=lambda i: -logits[i])
    best = 0.0
    for k in range(1, CLASSES):
        top = set(order[:k])
        if is_allowed(top, relaxation):
            pairs = product(top, set(order) - top)
            best = max(best, min((logits[j] - logits[i]) / math.dist(weight[j], weight[i]) for j, i in pairs))
    return best


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_of_a_linear_net_the_radius_is_the_true_one_and_never_above(relaxation):
    net, images = linear_net(), torch.randn(200, 1, 2, 2, dtype=torch.float64)
    found = certify_relaxed(net, images, relaxation)
    logits = net.module(images).tolist()
    weight = net.module[1].weight.tolist()
    true = torch.tensor([true_radius(weight, row, relaxation) for row in logits], dtype=torch.float64)
    assert (found.radius <= true).all()
    torch.testing.assert_close(found.radius, true, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.certified, found.radius > EPSILON)
    ordinary = net.certify(images)
    assert torch.equal(found.radii[:, 0], ordinary.radius)
    assert torch.equal(found.classes[:, 0], ordinary.prediction)
    assert 0 < ordinary.certified.sum() < len(images)
    if relaxation != 1:
        assert (found.radius > ordinary.radius).any()


def top_sets(module, images, size):
    """The `size` likeliest classes of images, as sets: sorted rows, and -1 behind."""
    order = module(images).argsort(dim=1, descending=True)
    keep = torch.arange(order.shape[1]) < size[:, None]
    return torch.where(keep, order, -1).sort(dim=1).values


@pytest.mark.parametrize("relaxation", [3, RELAXATIONS[4]], ids=str)
def test_no_point_in_the_ball_changes_the_set(relaxation):
    torch.manual_seed(1)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), MinMax(), nn.Linear(8, 8), MinMax(), nn.Linear(8, CLASSES))
    net = GloRoNet(body.double(), EPSILON, (1, 2, 2)).eval()
    images = torch.randn(50, 1, 2, 2, dtype=torch.float64)
    found = certify_relaxed(net, images, relaxation)
    size = 1 + found.radii.argmax(dim=1)
    assert (size > 1).any()
    # The steepest way to a tie of the last within and the first behind, and random ones, all of nearly the radius.
    points = images.clone().requires_grad_()
    ranked = net.module(points).sort(dim=1, descending=True).values
    gap = ranked.gather(1, size[:, None] - 1) - ranked.gather(1, size[:, None])
    ways = [-torch.autograd.grad(gap.sum(), points)[0], *torch.randn(200, *images.shape, dtype=torch.float64)]
    sets = top_sets(net.module, images, size)
    for way in ways:
        step = way / way.flatten(1).norm(dim=1)[:, None, None, None] * found.radius[:, None, None, None] * (1 - 1e-9)
        assert torch.equal(top_sets(net.module, images + step, size), sets)


def problem(rows=200, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(rows, CLASSES, generator=generator, dtype=dtype)
    # Rows of all lengths, so that the last of a set is not always the one that is nearest to leave it.
    weight = torch.randn(CLASSES, 5, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, CLASSES)[:, None]
    return logits, torch.cdist(weight, weight).fill_diagonal_(0)


def test_top_1_has_the_bits_of_the_ordinary_radius():
    logits, differences = problem()
    logits[0, :2] = logits[0].max() + 1  # a tie at the top
    logits[1, 3], logits[2, 3], logits[3, 3] = math.nan, math.inf, -math.inf
    differences[2, 4] = differences[4, 2] = 0
    for lipschitz in (0.7, 0.0, math.inf, math.nan):
        order, radii = relaxed_radii(logits, differences, lipschitz, 1)
        prediction, radius = certified_radius(logits, differences, lipschitz)
        assert torch.equal(order[:, 0], prediction)
        assert torch.equal(radii[:, 0], radius)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_certifies_nothing(bad):
    logits, differences = problem(4)
    logits[0, 2] = bad
    _, radii = relaxed_radii(logits, differences, 1.0, 4)
    assert (radii[0] == 0).all()
    assert (radii[1:].amax(1) > 0).all()
    assert not relaxed_margin(logits, differences.float(), torch.tensor(1.0), EPSILON, 4)[2][0]
    differences[1] = abs(bad)
    order, radii = relaxed_radii(logits, differences, 1.0, 4)
    # A set with the class whose bounds are not known, and those that must be kept from it.
    assert (radii[(order == 1).cumsum(1) > 0] == 0).all()


def test_a_tie_within_the_set_is_none_and_one_at_its_edge_is():
    logits = torch.tensor([[2.0, 2.0, 1.0, 0.0], [3.0, 2.0, 2.0, 0.0]])
    differences = torch.ones(4, 4, dtype=torch.float64).fill_diagonal_(0)
    _, radii = relaxed_radii(logits, differences, 1.0, 3)
    torch.testing.assert_close(radii, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 2.0]], dtype=torch.float64))


def test_labels_count_by_the_largest_certified_set():
    net, images = linear_net(), torch.randn(100, 1, 2, 2, dtype=torch.float64)
    found = certify_relaxed(net, images, 3)
    labels = found.classes[:, 1]
    assert torch.equal(found.holds(labels), found.size >= 2)
    assert torch.equal(found.size > 0, found.certified)
    assert torch.equal(found.holds(found.classes[:, 0]), found.certified)
    assert {1, 2, 3} <= set(found.size.tolist())


def test_ties_are_ranked_by_index_whatever_order_a_sort_leaves_them_in(monkeypatch):
    """A sort that is not asked to be stable may leave ties in any order: here in the reverse one."""
    argsort = torch.Tensor.argsort

    def careless(self, dim, descending, stable=False):
        found = argsort(self if stable else self.flip(dim), dim=dim, descending=descending, stable=True)
        return found if stable else self.shape[dim] - 1 - found

    monkeypatch.setattr(torch.Tensor, "argsort", careless)
    logits, differences = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]]), torch.ones(4, 4)
    classes, radii = relaxed_radii(logits, differences.double(), 1.0, 3)
    assert classes.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert radii[:, 0].tolist() == [0.0, 0.0]
    assert relaxed_margin(logits, differences, torch.tensor(1.0), EPSILON, 2)[1].tolist() == [1, 0]


def float32_net():
    torch.manual_seed(4)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), MinMax(), nn.Linear(8, 8), MinMax(), nn.Linear(8, CLASSES))
    with torch.no_grad():  # Cancelling, so that rounding takes a visible part of the radii.
        body[1].bias += 2.0**12
        body[5].bias -= body(torch.zeros(1, 1, 2, 2))[0]
    return GloRoNet(body, EPSILON, (1, 2, 2)).eval()


def exact_logits(net, image):
    """f of one image in rational numbers."""
    values = [Fraction(value) for value in image.flatten().tolist()]
    for layer in net.module:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [sum(Fraction(w) * v for w, v in zip(row, values, strict=True)) + Fraction(b) for row, b in rows]
        elif isinstance(layer, MinMax):
            values = [v for pair in zip(values[::2], values[1::2], strict=True) for v in sorted(pair)]
    return values


@pytest.mark.parametrize("relaxation", [1, 3, RELAXATIONS[4]], ids=str)
def test_executed_radii_are_below_the_exact_ones_of_rational_numbers(relaxation):
    net, images = float32_net(), torch.randn(40, 1, 2, 2)
    found = certify_relaxed(net, images, relaxation, executed=True)
    ordinary = net.certify(images, executed=True)
    assert torch.equal(found.radii[:, 0], ordinary.radius)
    assert torch.equal(found.real_radii[:, 0], ordinary.real_radius)
    assert torch.equal(found.real_radii, certify_relaxed(net, images, relaxation).radii)
    assert found.executed
    assert (found.radii <= found.real_radii).all()
    assert (found.radii < found.real_radii).any()
    assert (found.radii > 0).any(dim=0)[:2].all()
    differences = net.difference_bounds.tolist()
    for image, classes, radii in zip(images, found.classes.tolist(), found.radii.tolist(), strict=True):
        logits = exact_logits(net, image)
        for k, radius in enumerate(radii, start=1):
            top = classes[:k]
            for j, i in product(top, set(range(CLASSES)) - set(top)):
                rises = Fraction(found.lipschitz) * Fraction(differences[j][i]) * Fraction(radius)
                assert radius == 0 or logits[j] - logits[i] > rises


def test_no_image_of_the_type_changes_the_set_that_is_executed():
    net, images = float32_net(), torch.randn(20, 1, 2, 2)
    found = certify_relaxed(net, images, 3, executed=True)
    size = 1 + found.radii.argmax(dim=1)
    assert (size > 1).any()
    sets = top_sets(net.module, images, size)
    for _ in range(100):
        way = torch.randn(images.shape, dtype=torch.float64)
        step = way / way.flatten(1).norm(dim=1)[:, None, None, None] * found.radius[:, None, None, None] * (1 - 1e-3)
        assert torch.equal(top_sets(net.module, (images.double() + step).float(), size), sets)


def test_rounding_breaks_a_real_set_and_executed_refuses_it():
    """The first layer adds 2^24, where float32 counts in twos, the last takes it away again, beside a class far off."""
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 3)), 1.0, (1, 1, 1)).eval()
    with torch.no_grad():
        net.module[1].weight.fill_(1.0)
        net.module[1].bias.fill_(2.0**24)
        net.module[3].weight.copy_(torch.tensor([[0.0], [1.0], [0.0]]))
        net.module[3].bias.copy_(torch.tensor([100.0, -(2.0**24), 0.1]))
    x = torch.full((1, 1, 1, 1), 1.5)
    plain, executed = (certify_relaxed(net, x, 2, executed=executed) for executed in (False, True))
    assert plain.classes.tolist() == executed.classes.tolist() == [[0, 1]]
    assert plain.size.item() == 2
    # Half as far away as the radius that real arithmetic gives, the program has other classes before the rest.
    assert net.module(torch.ones(1, 1, 1, 1)).topk(2).indices.tolist() == [[0, 2]]
    assert executed.size.item() == 1
    assert executed.radii[0, 1] == 0
    assert torch.equal(executed.real_radii, plain.radii)
    assert executed.radii[0, 0] > 1


@pytest.mark.filterwarnings("ignore:.*overflow")
def test_logits_that_overflow_certify_no_set():
    net = float32_net()
    with torch.no_grad():
        net.module[5].weight[2] = 3e38
    images = torch.cat([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)])
    for executed in (False, True):
        found = certify_relaxed(net, images, 4, executed=executed)
        assert not net.module(images).isfinite().all(dim=1).any()
        assert (found.radii == 0).all()
        assert not found.certified.any()
        assert (found.size == 0).all()


def bottoms(logits, differences, lipschitz, relaxation):
    """The bottom of each row by loops over k, j and i."""
    found = []
    for row in logits.tolist():
        order, best = sorted(range(CLASSES), key=lambda i, row=row: -row[i]), -math.inf
        for k in range(1, CLASSES):
            top = set(order[:k])
            if is_allowed(top, relaxation):
                pairs = product(top, set(order) - top)
                best = max(best, min(row[j] - row[i] - EPSILON / 4 * lipschitz * differences[j][i] for j, i in pairs))
        found.append(max(row) - best)
    return found


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_bottom_is_the_definition_and_agrees_with_the_radii(relaxation):
    logits, differences = problem(dtype=torch.float64)
    most, members = read_relaxation(relaxation)
    lipschitz = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    arguments = logits.requires_grad_(), differences.requires_grad_(), lipschitz
    bottom, prediction, certified = relaxed_margin(*arguments, EPSILON / 4, most, members)
    expected = torch.tensor(bottoms(logits.detach(), differences.tolist(), 0.9, relaxation), dtype=torch.float64)
    torch.testing.assert_close(bottom.detach(), expected, rtol=1e-12, atol=1e-12)
    order, radii = relaxed_radii(logits, differences.detach(), 0.9, most)
    radii = torch.where(allowed_sets(order, members), radii, 0.0)
    assert torch.equal(prediction, order[:, 0])
    assert torch.equal(certified, radii.amax(1) > EPSILON / 4)
    assert 0 < certified.sum() < len(certified)
    bounds = differences.detach().requires_grad_(), lipschitz
    assert torch.autograd.gradcheck(
        lambda *bounds: relaxed_margin(logits.detach()[:8], *bounds, EPSILON / 4, most, members)[0], bounds
    )
    (gradient,) = torch.autograd.grad(bottom.sum(), logits)
    assert torch.equal(gradient.sort(dim=1).values[:, -2:], torch.tensor([0.0, 1.0]).double().expand(len(logits), 2))


def test_for_one_class_the_loss_is_the_cross_entropy_with_bottom():
    torch.manual_seed(0)
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), MinMax(), nn.Linear(8, 3)), 0.3, (1, 4, 4)).train()
    twin, x, y = copy.deepcopy(net), torch.randn(9, 1, 4, 4), torch.arange(9) % 3
    loss, expected = net(x, y, RelaxedLoss(1)), twin(x, y, CrossEntropyLoss())
    torch.testing.assert_close(loss, expected)
    gradients = (torch.autograd.grad(each, list(n.parameters())) for each, n in ((loss, net), (expected, twin)))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ConfigError, match="sets of 3 of 3 classes never change"):
        net(x, y, RelaxedLoss(3))


@pytest.mark.parametrize("relaxation", [2, [{0, 1}]], ids=str)
def test_training_learns_to_keep_apart_only_what_it_must(relaxation):
    """Classes 0 and 1 have the same images: no net certifies them apart, but their set."""
    torch.manual_seed(0)
    y, kinds = torch.arange(100) % 5, torch.rand(5, 1, 4, 4)
    kinds[1] = kinds[0]
    x = 0.98 * kinds[y] + 0.02 * torch.rand(100, 1, 4, 4)
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), MinMax(), nn.Linear(8, 5)), 0.3, (1, 4, 4)).train()
    criterion, optimizer = RelaxedLoss(relaxation), torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        net(x, y, criterion).backward()
        optimizer.step()
    assert int(net.batch_statistics.verified) > 0
    net.eval()
    found = certify_relaxed(net, x, relaxation)
    assert found.holds(y).double().mean() > 0.95
    ordinary = net.certify(x)
    assert (ordinary.certified & (ordinary.prediction == y)).sum() <= 80
    assert torch.isfinite(net(x, y, criterion))


@pytest.mark.parametrize(
    ("relaxation", "says"),
    [
        (0, "relaxation is 0"),
        (6, "sets of 6 of 6 classes never change"),
        ([], r"relaxation is \[\]"),
        ([{1}, {2, 6}], "has class 6, but there are 6"),
        ([{-1, 2}], r"relaxation is \[{2, -1}\]|relaxation is \[{-1, 2}\]"),
        ([set()], "give k, or sets"),
        (True, "relaxation is True"),
        ([3, 5], r"relaxation is \[3, 5\]"),
    ],
)
def test_what_is_no_relaxation_is_named(relaxation, says):
    with pytest.raises(ConfigError, match=says):
        certify_relaxed(linear_net(), torch.zeros(1, 1, 2, 2).double(), relaxation)
