"""The bottom logit, the prediction and the radius against a loop over classes, and their agreement bit by bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from gloro_fast.ops import head_differences, margin, margin_reference


def problem(rows=8, classes=5, dtype=torch.float64):
    logits = torch.randn(rows, classes, dtype=dtype)
    differences = head_differences(torch.randn(classes, 7, dtype=dtype))
    return logits, differences, torch.tensor(1.7, dtype=dtype)


def by_loop(logits, differences, lipschitz, epsilon):
    """The definition, in Python floats."""
    bottoms, predictions, radii = [], [], []
    for f in logits.tolist():
        j = f.index(max(f))
        others = [i for i in range(len(f)) if i != j]
        k = [float(lipschitz) * float(differences[j, i]) for i in range(len(f))]
        bottoms.append(max(f[i] + epsilon * k[i] for i in others))
        radii.append(min((f[j] - f[i]) / k[i] if k[i] else math.inf for i in others))
        predictions.append(j)
    return bottoms, predictions, radii


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_against_the_definition(classes):
    logits, differences, lipschitz = problem(classes=classes)
    bottom, prediction, radius = margin_reference(logits, differences, lipschitz, 0.3)
    bottoms, predictions, radii = by_loop(logits, differences, lipschitz, 0.3)
    assert prediction.tolist() == predictions
    torch.testing.assert_close(bottom, torch.tensor(bottoms, dtype=torch.float64), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(radius, torch.tensor(radii, dtype=torch.float64), rtol=1e-14, atol=1e-14)


def test_gradients():
    logits, differences, lipschitz = (t.requires_grad_() for t in problem())
    assert gradcheck(lambda f, d, k: margin(f, d, k, 0.3)[0], (logits, differences, lipschitz))


def test_gradients_through_the_head():
    logits, _, lipschitz = problem()
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w: margin(logits, head_differences(w), lipschitz, 0.3)[0], weight)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]), st.booleans())
def test_certified_is_bottom_below_the_top_bit_by_bit(seed, dtype, at_the_radius):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(64, 4, generator=generator).to(dtype)
    differences = head_differences(torch.randn(4, 3, generator=generator))
    lipschitz = torch.tensor(1.3)
    epsilon = 0.2
    if at_the_radius:  # The hardest epsilon: exactly one image's radius, where rounding decides.
        epsilon = float(margin(logits, differences, lipschitz, 0.0)[2][0])
    bottom, prediction, radius = margin(logits, differences, lipschitz, epsilon)
    top = logits.to(bottom.dtype).amax(1)
    assert torch.equal(bottom < top, radius > epsilon)
    with_bottom = torch.cat([logits.to(bottom.dtype), bottom[:, None]], 1).argmax(1)
    assert torch.equal(with_bottom != 4, radius > epsilon)
    assert torch.equal(with_bottom[radius > epsilon], prediction[radius > epsilon])


def test_a_tie_gives_radius_zero_even_without_any_slope():
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    for lipschitz in (0.0, 1.0):
        bottom, _, radius = margin(logits, torch.zeros(3, 3), torch.tensor(lipschitz), 0.0)
        assert radius.item() == 0
        assert bottom > 1


def test_no_slope_puts_no_limit():
    bottom, _, radius = margin(torch.tensor([[1.0, 0.0]]), torch.zeros(2, 2), torch.tensor(1.0), 5.0)
    assert radius.item() == math.inf
    assert bottom.item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_gives_bottom(bad):
    good = torch.tensor([[3.0, 1.0, 0.0]])
    differences = torch.ones(3, 3)
    one = torch.tensor(1.0)
    for logits, lipschitz in [(good, one * bad)] + [(good.index_fill(1, torch.tensor(i), bad), one) for i in range(3)]:
        bottom, _, radius = margin(logits, differences, lipschitz, 0.1)
        assert radius.item() == 0
        assert not bottom < logits.max()


def test_empty_batch():
    _, differences, lipschitz = problem()
    assert [len(t) for t in margin(torch.zeros(0, 5), differences, lipschitz, 0.1)] == [0, 0, 0]


def test_distances_of_close_rows_are_direct_differences():
    # 30 rows: more than the 25 above which torch.cdist by itself goes through w_i . w_j.
    weight = torch.full((30, 64), 1000.0) + torch.randn(30, 64) * 1e-3
    exact = (weight.double()[:, None] - weight.double()[None]).norm(dim=2)
    torch.testing.assert_close(head_differences(weight).double(), exact, rtol=1e-5, atol=0)


def test_the_gradient_at_equal_rows_is_zero():
    weight = torch.ones(3, 4, requires_grad=True)
    head_differences(weight).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(3, 4))
