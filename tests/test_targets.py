"""Weights of classes, ignored labels and probabilities: as PyTorch has them for m classes, bottom never the label."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, LmtLoss, TradesLoss
from gloro_fast.ops import head_differences, margin
from gloro_fast.ops.labels import check_labels, class_indices, with_bottom

ROWS, CLASSES, LAM = 12, 4, 1.5
WEIGHT = torch.tensor([0.5, 2.0, 0.0, 3.0], dtype=torch.float64)
REDUCTIONS = ["mean", "sum", "none"]
SETTINGS = [{}, {"weight": WEIGHT}, {"ignore_index": 1}, {"weight": WEIGHT, "ignore_index": -100}]


@pytest.fixture
def logits():
    return (torch.randn(ROWS, CLASSES + 1, dtype=torch.float64) * 3).requires_grad_()


def indices(ignore_index=None):
    labels = torch.arange(ROWS) % CLASSES
    if ignore_index is not None:
        labels[[0, 7]] = ignore_index
    return labels


def probabilities():
    return torch.rand(ROWS, CLASSES, dtype=torch.float64).softmax(1)


def as_torch_has_it(logits, labels, reduction, weight=None, ignore_index=-100):
    """PyTorch's own over m + 1 classes, of which the last has any weight and no probability."""
    if weight is not None:
        weight = torch.cat([weight, weight.new_full((1,), 7.0)])
    if labels.is_floating_point():
        labels = torch.cat([labels, labels.new_zeros(len(labels), 1)], dim=1)
    ignored = {} if ignore_index is None else {"ignore_index": ignore_index}
    return F.cross_entropy(logits, labels, weight, reduction=reduction, **ignored)


def assert_same(found, expected, *inputs):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(loss.sum(), inputs, retain_graph=True) for loss in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_cross_entropy_of_class_indices_is_pytorchs(logits, settings, reduction):
    labels = indices(settings.get("ignore_index"))
    found = CrossEntropyLoss(reduction, **settings)(logits, labels)
    assert_same(found, as_torch_has_it(logits, labels, reduction, **settings), logits)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_of_probabilities_is_pytorchs(logits, weight, reduction):
    labels = probabilities()
    found = CrossEntropyLoss(reduction, weight=weight)(logits, labels)
    assert_same(found, as_torch_has_it(logits, labels, reduction, weight), logits)


@pytest.mark.parametrize("robust", ["kl", "ce"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_trades_weighs_both_terms(logits, settings, robust):
    labels = indices(settings.get("ignore_index"))
    plain = TradesLoss(LAM, robust, "none")(logits, labels.clamp_min(0))
    share = torch.ones(ROWS, dtype=torch.float64)
    if "weight" in settings:
        share = WEIGHT[labels.clamp_min(0)]
    if "ignore_index" in settings:
        share = share * (labels != settings["ignore_index"])
    for reduction, expected in (
        ("none", share * plain),
        ("sum", (share * plain).sum()),
        ("mean", (share * plain).sum() / share.sum()),
    ):
        assert_same(TradesLoss(LAM, robust, reduction, **settings)(logits, labels), expected, logits)


@pytest.mark.parametrize("criterion", [TradesLoss(LAM, "kl", "none"), TradesLoss(LAM, "ce", "none", weight=WEIGHT)])
def test_the_loss_is_linear_in_probabilities(logits, criterion):
    labels = probabilities()
    each = [criterion(logits, torch.full((ROWS,), label)) for label in range(CLASSES)]
    assert_same(criterion(logits, labels), (labels * torch.stack(each, dim=1)).sum(1), logits)
    certain = F.one_hot(indices(), CLASSES).double()
    assert_same(criterion(logits, certain), criterion(logits, indices()), logits)


def problem(dtype=torch.float64):
    logits = (torch.randn(ROWS, CLASSES, dtype=dtype) * 3).requires_grad_()
    differences = head_differences(torch.randn(CLASSES, 7, dtype=dtype)).detach().requires_grad_()
    return logits, differences, torch.tensor(0.3, dtype=dtype, requires_grad=True)


LABELS = [indices(), indices(-100), probabilities()]


@pytest.mark.parametrize("labels", LABELS, ids=["indices", "ignored", "probabilities"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("make", [CrossEntropyLoss, lambda *a, **k: TradesLoss(LAM, "kl", *a, **k)])
def test_one_pass_gives_what_two_steps_give(make, reduction, labels):
    arguments = problem()
    criterion = make(reduction, weight=WEIGHT, ignore_index=-100)
    losses, prediction, certified = criterion.with_margin(*arguments, 0.2, labels)
    bottom, expected, radius = margin(*arguments, 0.2)
    assert torch.equal(prediction, expected)
    assert torch.equal(certified, radius > 0.2)
    two_steps = criterion(torch.cat([arguments[0], bottom[:, None]], dim=1), labels)
    assert_same(criterion.reduce(losses), two_steps, *arguments)


@pytest.mark.parametrize("kind", [EmmaLoss, LmtLoss])
def test_losses_of_all_margins_are_weighed(kind):
    arguments, labels = problem(), indices(-100)
    plain = kind("none").with_margin(*arguments, 0.2, labels.clamp_min(0))[0]
    share = WEIGHT[labels.clamp_min(0)] * (labels >= 0)
    criterion = kind(weight=WEIGHT, ignore_index=-100)
    found = criterion.reduce(criterion.with_margin(*arguments, 0.2, labels)[0])
    assert_same(found, (share * plain).sum() / share.sum(), *arguments)
    with pytest.raises(DataError, match=f"{kind.__name__} needs class indices"):
        criterion.with_margin(*arguments, 0.2, probabilities())


def test_an_ignored_row_has_no_part_in_the_gradient():
    logits = torch.tensor([[1.0, 2.0, torch.inf], [0.0, 1.0, 2.0]], requires_grad=True)
    loss = CrossEntropyLoss(ignore_index=9)(logits, torch.tensor([9, 0]))
    assert loss.isfinite()
    loss.backward()
    assert not logits.grad[0].nan_to_num(0.0).any()
    assert logits.grad[1].isfinite().all()


def net():
    module = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    return GloRoNet(module, 0.1, (1, 3, 3)).double()


@pytest.mark.parametrize("training", [True, False])
def test_a_net_takes_weights_in_one_pass(training):
    one, two = (model.train(training) for model in (net(), net()))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    x, labels = torch.rand(ROWS, 1, 3, 3, dtype=torch.float64), indices()
    found = one(x, labels, CrossEntropyLoss(weight=WEIGHT))
    torch.testing.assert_close(found, as_torch_has_it(two(x), labels, "mean", WEIGHT), rtol=1e-12, atol=1e-12)


def test_probabilities_and_ignored_labels_train_a_net():
    model = net()
    x = torch.rand(ROWS, 1, 3, 3, dtype=torch.float64)
    for labels in (probabilities(), indices(-100)):
        CrossEntropyLoss(weight=WEIGHT, ignore_index=-100)(model(x), labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_pytorchs_loss_of_m_classes_on_m_plus_1_logits(logits, weight, soft, reduction):
    labels = probabilities() if soft else indices(-100)
    found = with_bottom(nn.CrossEntropyLoss(weight, reduction=reduction), logits, labels)
    assert_same(found, as_torch_has_it(logits, labels, reduction, weight), logits)


def test_smoothing_gives_bottom_no_part(logits):
    labels = indices()
    found = with_bottom(nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none"), logits, labels)
    losses = -logits.log_softmax(1)
    expected = 0.8 * losses[torch.arange(ROWS), labels] + 0.2 * losses[:, :-1].sum(1) / (CLASSES + 1)
    assert_same(found, expected, logits)


def test_other_criteria_are_called_as_they_are(logits):
    labels = probabilities()
    seen = with_bottom(lambda *arguments: arguments, logits, labels)
    assert seen == (logits, labels)
    for_all = nn.CrossEntropyLoss(torch.ones(CLASSES + 1, dtype=torch.float64))
    assert torch.equal(with_bottom(for_all, logits, indices()), for_all(logits, indices()))


def test_what_predictions_are_compared_with():
    labels = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    assert class_indices(labels).tolist() == [1, 0]
    assert class_indices(labels.argmax(1)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (indices(-100), {}, "labels must lie in [0, 4) but go from -100 to 3; bottom is never a label"),
        (
            indices(-100),
            {"ignore_index": 5},
            "labels must lie in [0, 4) but go from -100 to 3; bottom is never a label",
        ),
        (indices(4), {}, "labels must lie in [0, 4) but go from 0 to 4; bottom is never a label"),
        (
            probabilities(),
            {},
            "labels are probabilities (12, 4), where class indices (12,) are needed; with CrossEntropyLoss or "
            "TradesLoss call criterion(net(x), labels)",
        ),
        (
            probabilities()[:, :3],
            {"probabilities": True},
            "labels are torch.float64; convert them to class indices with labels.long()",
        ),
    ],
)
def test_labels_that_are_refused(labels, settings, message):
    with pytest.raises(DataError) as caught:
        check_labels(labels, ROWS, CLASSES, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("labels", [indices(-100), torch.full((ROWS,), -100)])
def test_ignored_labels_are_not_refused(labels):
    check_labels(labels, ROWS, CLASSES, ignore_index=-100)


@pytest.mark.parametrize("kind", [CrossEntropyLoss, EmmaLoss, LmtLoss, lambda **k: TradesLoss(1.0, **k)])
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weight": [1.0, 2.0]}, r"weight is \[1\.0, 2\.0\]; give a tensor \(m,\)"),
        ({"weight": torch.ones(2, 2)}, "give a tensor"),
        ({"weight": torch.ones(2, dtype=torch.int64)}, "give a tensor"),
        ({"ignore_index": "x"}, "ignore_index is 'x'; give a whole number"),
    ],
)
def test_settings_that_are_refused(kind, settings, match):
    with pytest.raises(ConfigError, match=match):
        kind(**settings)


def test_as_many_weights_as_classes(logits):
    for labels in (indices(), probabilities()):
        with pytest.raises(ConfigError, match="weight has 5 entries; give one for each of the 4 classes"):
            CrossEntropyLoss(weight=torch.ones(5, dtype=torch.float64))(logits, labels)
    arguments = problem()
    for kind in (CrossEntropyLoss, EmmaLoss):
        with pytest.raises(ConfigError, match="weight has 3 entries"):
            kind(weight=torch.ones(3, dtype=torch.float64)).with_margin(*arguments, 0.1, indices())


def test_what_is_printed_and_moved():
    criterion = TradesLoss(2.0, weight=WEIGHT, ignore_index=-1)
    assert repr(criterion) == "TradesLoss(lam=2, robust='kl', reduction='mean', ignore_index=-1)"
    assert criterion.float().weight.dtype == torch.float32


CRITERIA = [
    CrossEntropyLoss(weight=WEIGHT, ignore_index=-100),
    TradesLoss(LAM, weight=WEIGHT, ignore_index=-100),
    TradesLoss(LAM, "ce", weight=WEIGHT, ignore_index=-100),
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(WEIGHT),
    nn.CrossEntropyLoss(label_smoothing=0.1),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("labels", LABELS, ids=["indices", "ignored", "probabilities"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_net_takes_every_kind_of_labels(criterion, labels, training):
    one, two = (model.train(training) for model in (net(), net()))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    x = torch.rand(ROWS, 1, 3, 3, dtype=torch.float64)
    found = one(x, labels, criterion)
    logits = two(x)
    torch.testing.assert_close(found, with_bottom(criterion, logits, labels), rtol=1e-12, atol=1e-12)
    right = logits[:, :-1].argmax(1) == class_indices(labels)
    assert one.batch_statistics.correct == right.sum()


def test_losses_of_all_margins_take_class_indices():
    with pytest.raises(DataError, match="where class indices"):
        net()(torch.rand(ROWS, 1, 3, 3, dtype=torch.float64), probabilities(), EmmaLoss())
