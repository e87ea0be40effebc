"""The loss of a sequence of layers as one function: the bits of the ops one by one, and the reference's gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gloro_fast import GloRoNet, ops
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, MarginCriterion, TradesLoss
from gloro_fast.native import extension
from gloro_fast.nn import Conv2d, MinMax, Normalize
from gloro_fast.ops.sequence_loss_op import sequence_loss, sequence_loss_reference

pytestmark = pytest.mark.skipif(not extension.available(), reason="needs the extension")

SHAPE, CLASSES, BATCH = (3, 6, 6), 5, 7


def layers(*, scaled: bool = False) -> nn.Sequential:
    torch.manual_seed(3)
    normalize = [Normalize(torch.zeros(3), torch.full((3,), 0.5))] if scaled else []
    return nn.Sequential(
        *normalize,
        Conv2d(3, 4, 3, 2, "same"),
        MinMax(),
        nn.Flatten(),
        nn.Linear(36, 8),
        MinMax(),
        nn.Linear(8, CLASSES),
    )


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.rand(BATCH, *SHAPE), torch.randint(CLASSES, (BATCH,))


def learned(criterion: MarginCriterion, *, scaled: bool = False) -> list[Tensor]:
    """What a step leaves: loss, gradients, iterates, counts."""
    net = GloRoNet(layers(scaled=scaled), 0.1, SHAPE).train()
    images, labels = batch()
    images.requires_grad_()
    loss = net(images, labels, criterion)
    loss.backward()
    found = net.batch_statistics
    assert found is not None
    assert images.grad is not None
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert len(gradients) == 6
    left = [*net.iterates.vectors(), found.correct, found.verified, found.lipschitz]
    return [loss.detach(), images.grad, *gradients, *left]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return whether each loss was computed as one function."""
    calls: list[bool] = []

    def spied(*arguments: object) -> object:
        found = sequence_loss(*arguments)  # type: ignore[arg-type]
        calls.append(found is not None)
        return found

    monkeypatch.setattr("gloro_fast.net.gloro_net.sequence_loss", spied)
    return calls


@pytest.mark.parametrize("criterion", [CrossEntropyLoss(), TradesLoss(1.5), TradesLoss(0.7, "ce")], ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_bits_are_those_of_the_ops(
    criterion: MarginCriterion, scaled: bool, counted: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = learned(criterion, scaled=scaled)
    assert counted == [True]
    monkeypatch.setattr("gloro_fast.net.gloro_net.sequence_loss", lambda *arguments: None)
    apart = learned(criterion, scaled=scaled)
    for mine, its in zip(together, apart, strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(
    "criterion",
    [EmmaLoss(), CrossEntropyLoss("sum"), CrossEntropyLoss(weight=torch.ones(CLASSES)), TradesLoss(1, ignore_index=-1)],
    ids=str,
)
def test_other_losses_are_composed(criterion: MarginCriterion, counted: list[bool]) -> None:
    learned_with = GloRoNet(layers(), 0.1, SHAPE).train()
    learned_with(*batch(), criterion).backward()
    assert not any(counted)


def arguments(factor: float = 2.5) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[ops.Geometry]]:
    torch.manual_seed(5)
    geometries = [ops.Geometry((3, 6, 6), (1, 1), ((1, 1), (1, 1)), (1, 1)), ops.Geometry((9,), (), (), ())]
    weights = [torch.randn(4, 3, 3, 3), torch.randn(6, 9)]
    iterates = [ops.power_iteration_reference([weight], [start / start.norm()], [geometry], 40)[1][0]
                for weight, geometry in zip(weights, geometries, strict=True)
                for start in [torch.randn(geometry.input_shape)]]  # fmt: skip
    return torch.randn(BATCH, CLASSES), torch.randn(CLASSES, 6), weights, iterates, geometries


@pytest.mark.parametrize("criterion", ["ce", "trades-kl", "trades-ce"])
def test_gradients_are_the_references(criterion: str) -> None:
    logits, head, weights, iterates, geometries = arguments()
    rest = (0.01, torch.arange(BATCH) % CLASSES, criterion, torch.tensor(0.5, dtype=torch.float64))
    found = []
    for function in (sequence_loss, sequence_loss_reference):
        inputs = [tensor.clone().requires_grad_() for tensor in (logits, head, *weights)]
        epsilon = torch.tensor(rest[0], dtype=torch.float64)
        result = function(*inputs[:2], inputs[2:], iterates, geometries, 1, 2.5, epsilon, *rest[1:])
        assert result is not None
        result.loss.backward()
        found.append([result.loss.detach(), *result[1:4], *result.iterates, *(tensor.grad for tensor in inputs)])
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=2e-5, atol=1e-6)


def test_a_gradient_penalty_is_the_references() -> None:
    logits, head, weights, iterates, geometries = arguments()
    epsilon, lam = (torch.tensor(number, dtype=torch.float64) for number in (0.01, 0.5))
    found = []
    for function in (sequence_loss, sequence_loss_reference):
        inputs = [tensor.clone().requires_grad_() for tensor in (logits, head, *weights)]
        result = function(
            *inputs[:2], inputs[2:], iterates, geometries, 1, 2.5, epsilon, torch.arange(BATCH) % CLASSES, "ce", lam
        )
        assert result is not None
        first = torch.autograd.grad(result.loss, inputs, create_graph=True)
        penalty = sum((gradient.square().sum() for gradient in first), torch.zeros(()))
        found.append(torch.autograd.grad(penalty, inputs))
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
    assert all(gradient.abs().sum() > 0 for gradient in found[0])


def test_frozen_layers_and_a_frozen_head_get_no_gradient() -> None:
    net = GloRoNet(layers(), 0.1, SHAPE).train()
    head, first = net.module[-1].weight, net.module[0].weight
    head.requires_grad_(False)
    first.requires_grad_(False)
    net(*batch(), TradesLoss(1.0)).backward()
    assert head.grad is None
    assert first.grad is None
    assert net.module[3].weight.grad is not None
