"""Cross entropy with bottom and TRADES: closed forms against the softmaxes over m + 1 they stand for."""

import pytest
import torch
from torch.autograd import gradcheck

from gloro_fast.ops import cross_entropy, cross_entropy_reference, trades, trades_reference


def batch(rows=6, classes=4, scale=3.0):
    logits = (torch.randn(rows, classes + 1, dtype=torch.float64) * scale).requires_grad_()
    return logits, torch.randint(classes, (rows,))


def kl(logits):
    """KL(softmax f || softmax f_bar) from the definition."""
    p = logits[:, :-1].softmax(1)
    q = logits.softmax(1)[:, :-1]
    return (p * (p / q).log()).sum(1)


def robust_cross_entropy(logits):
    return -(logits[:, :-1].softmax(1) * logits.log_softmax(1)[:, :-1]).sum(1)


def test_cross_entropy_is_that_of_all_logits():
    logits, labels = batch()
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy_reference(logits, labels), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("robust", "definition"), [("kl", kl), ("ce", robust_cross_entropy)])
def test_trades_closed_form_is_the_definition(robust, definition):
    logits, labels = batch()
    expected = torch.nn.functional.cross_entropy(logits[:, :-1], labels, reduction="none") + 1.5 * definition(logits)
    value = trades_reference(logits, labels, 1.5, robust)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad(value.sum(), logits)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [cross_entropy, lambda f, y: trades(f, y, 1.5), lambda f, y: trades(f, y, 1.5, "ce")])
def test_gradients(loss):
    logits, labels = batch()
    assert gradcheck(lambda f: loss(f, labels), logits)


@pytest.mark.parametrize("robust", ["kl", "ce"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_stay_finite(robust, size):
    logits = torch.tensor([[size, -size, 0.0, size]], requires_grad=True)
    loss = trades(logits, torch.tensor([0]), 2.0, robust).sum() + cross_entropy(logits, torch.tensor([0])).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    logits, labels = batch()
    logits = logits.detach().to(dtype)
    assert trades(logits, labels, 1.0).dtype == torch.float32
    torch.testing.assert_close(trades(logits, labels, 1.0), trades(logits.float(), labels, 1.0))
    torch.testing.assert_close(cross_entropy(logits, labels), cross_entropy(logits.float(), labels))
