"""EMMA against the definition, row by row in Python, and its gradient against the one derived by hand."""

import math

import pytest
import torch

from gloro_fast.ops import emma, emma_reference, head_differences, margin_reference

EPSILON = 0.3


def problem(rows=40, classes=5, scale=2.0):
    logits = (torch.randn(rows, classes, dtype=torch.float64) * scale).requires_grad_()
    differences = head_differences(torch.randn(classes, 7, dtype=torch.float64)).requires_grad_()
    lipschitz = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    return logits, differences, lipschitz, torch.randint(classes, (rows,))


def by_hand(logits, differences, lipschitz, labels):
    """Loss of each row, and the gradients of their sum with respect to logits, D and K."""
    logits, differences, lipschitz = logits.tolist(), differences.tolist(), lipschitz.item()
    losses, classes = [], len(differences)
    to_logits = [[0.0] * classes for _ in logits]
    to_differences = [[0.0] * classes for _ in range(classes)]
    to_lipschitz = 0.0
    for row, (f, y) in enumerate(zip(logits, labels.tolist(), strict=True)):
        m = [lipschitz * d for d in differences[y]]
        share = [1.0 if m[i] == 0 else min(max(-(f[i] - f[y]) / (EPSILON * m[i]), 0.01), 1.0) for i in range(classes)]
        z = [f[i] - f[y] + share[i] * EPSILON * m[i] for i in range(classes)]
        total = sum(map(math.exp, z))
        p = [math.exp(value) / total for value in z]
        losses.append(math.log(total) - z[y])
        for i in range(classes):
            to_logits[row][i] += p[i] - (i == y)
            if i != y:
                to_differences[y][i] += p[i] * share[i] * EPSILON * lipschitz
                to_lipschitz += p[i] * share[i] * EPSILON * differences[y][i]
    return losses, to_logits, to_differences, to_lipschitz


def test_value_and_gradient_are_those_of_the_definition():
    *arguments, labels = problem()
    loss = emma_reference(*arguments, EPSILON, labels)
    found = [loss, *torch.autograd.grad(loss.sum(), arguments)]
    for value, expected in zip(found, by_hand(*arguments, labels), strict=True):
        torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_shares_cover_both_ends():
    logits, differences, lipschitz, labels = problem()
    gap = logits - logits.gather(1, labels[:, None])
    share = -gap / (EPSILON * lipschitz * differences[labels])
    assert (share < 0.01).any()
    assert (share > 1).any()
    assert ((share > 0.01) & (share < 1)).any()


def test_a_certified_row_has_the_whole_ball_added():
    logits = torch.tensor([[5.0, 0.0, -1.0]])
    differences, labels = torch.ones(3, 3).fill_diagonal_(0), torch.tensor([0])
    loss = emma_reference(logits, differences, torch.tensor(1.0), EPSILON, labels)
    expected = torch.nn.functional.cross_entropy(logits + EPSILON * differences[0], labels, reduction="none")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("zero", ["epsilon", "lipschitz", "differences"])
def test_without_a_ball_it_is_the_cross_entropy(zero):
    logits, differences, lipschitz, labels = problem()
    epsilon = 0.0 if zero == "epsilon" else EPSILON
    differences = (differences * (zero != "differences")).detach().requires_grad_()
    lipschitz = (lipschitz * (zero != "lipschitz")).detach().requires_grad_()
    loss = emma_reference(logits, differences, lipschitz, epsilon, labels)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss.sum(), [logits, differences, lipschitz]))


def test_counts_are_those_of_the_margin():
    logits, differences, lipschitz, labels = problem()
    loss, prediction, certified = emma(logits, differences, lipschitz, EPSILON, labels)
    _, expected, radius = margin_reference(logits, differences, lipschitz, EPSILON)
    assert torch.equal(loss, emma_reference(logits, differences, lipschitz, EPSILON, labels))
    assert torch.equal(prediction, expected)
    assert torch.equal(certified, radius > EPSILON)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    logits, differences, lipschitz, labels = (t.detach() for t in problem())
    logits, differences, lipschitz = logits.to(dtype), differences.float(), lipschitz.float()
    loss = emma_reference(logits, differences, lipschitz, EPSILON, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, emma_reference(logits.float(), differences, lipschitz, EPSILON, labels))
