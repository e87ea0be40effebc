"""What the GPU kernels of margin and its losses must give; shared by interpreter and simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gloro_fast.ops import head_differences_reference, margin_reference
from gloro_fast.ops.margin_loss_op import CRITERIA, margin_loss_reference

EPSILON = 0.3
LAMBDA = 1.5
NUMBERS = torch.tensor(EPSILON, dtype=torch.float64), torch.tensor(LAMBDA, dtype=torch.float64)
"""Both as the kernels take them."""
Problem = tuple[Tensor, Tensor, Tensor]


def problem(rows: int, classes: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Problem:
    """Logits, D and K, reproducible."""
    generator = torch.Generator().manual_seed(1000 * rows + classes)
    logits = (torch.randn(rows, classes, generator=generator) * scale).to(dtype)
    return logits, head_differences_reference(torch.randn(classes, 7, generator=generator)) * scale, torch.tensor(0.4)


def with_specials(logits: Tensor) -> Tensor:
    """Ties at the top, NaN, infinities, huge numbers and both zeros in some of the rows."""
    generator = torch.Generator().manual_seed(0)
    big = torch.finfo(logits.dtype).max
    special = torch.tensor([0.0, -0.0, 9.0, 9.0, 9.0, big, -big, torch.inf, -torch.inf, torch.nan]).to(logits.dtype)
    which = torch.randint(len(special), logits.shape, generator=generator)
    rate = torch.rand(len(logits), 1, generator=generator) * 0.6
    return torch.where(torch.rand(logits.shape, generator=generator) < rate, special[which], logits)


def check_margin(margin: Callable[..., Any], problem: Problem, epsilon: float = EPSILON) -> None:
    """The bits of the reference."""
    bottom, prediction, radius, _ = margin(*problem, torch.tensor(epsilon, dtype=torch.float64))
    for actual, expected in zip((bottom, prediction, radius), margin_reference(*problem, epsilon), strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def check_loss(margin_loss: Callable[..., Any], problem: Problem, criterion: int) -> None:
    """Loss and derivatives to 1e-6 of the float64 reference, of each row's largest; decisions to the bit."""
    labels = torch.arange(len(problem[0])) * 7 % problem[0].shape[1]
    rest = (EPSILON, labels, CRITERIA[criterion], LAMBDA)
    epsilon, lam = NUMBERS
    loss, prediction, certified, share_of_logits, share_of_bottom, runner_up = margin_loss(
        *problem, epsilon, labels, criterion, lam
    )
    exact = [tensor.double().requires_grad_() for tensor in problem]
    expected = margin_loss_reference(exact[0], exact[1], exact[2], *rest)[0]
    (gradient,) = torch.autograd.grad(expected.sum(), exact[:1])
    _, wanted_prediction, wanted_certified = margin_loss_reference(*problem, *rest)
    assert torch.equal(prediction, wanted_prediction)
    assert torch.equal(certified, wanted_certified)
    relative = (loss.double() - expected).abs() / expected.abs()
    assert (relative <= 1e-6).all(), f"loss: {relative.max():.2g}"
    relative = (share_of_logits.double() - gradient).abs().amax(1) / gradient.abs().amax(1)
    assert (relative <= 1e-6).all(), f"gradient: {relative.max():.2g}"
    bottom = torch.ops.gloro_fast.margin_loss(*(tensor.detach() for tensor in exact), epsilon, labels, criterion, lam)
    torch.testing.assert_close(share_of_bottom.double(), bottom[4], rtol=1e-6, atol=1e-9)
    assert torch.equal(runner_up, bottom[5])


def saved(rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Predictions, runners-up (none for the same few of each half), D of numbers that are close, K and epsilon."""
    generator = torch.Generator().manual_seed(rows)
    prediction = torch.randint(classes, (rows,), generator=generator)
    runner_up = (prediction + torch.randint(1, classes, (rows,), generator=generator)) % classes
    runner_up[_none(rows)] = -1
    differences = 1 + 1e-6 * torch.rand(classes, classes, generator=generator)
    return prediction, runner_up, differences, torch.tensor(0.7), NUMBERS[0]


def _none(rows: int) -> Tensor:
    return torch.arange(rows) % max(1, rows // 2) % 7 == 0


def check_gradients(
    margin_backward: Callable[..., Any],
    loss_backward: Callable[..., Any],
    rows: int,
    classes: int,
    dtype: torch.dtype = torch.float32,
    step: int = 1,
) -> None:
    """Those of logits to the bit, D's to 1e-5 of what is added up, K's summed in float64; rows without bottom apart.

    ``step``: between the elements of the gradient that comes in; 0 is what a mean gives.
    """
    generator = torch.Generator().manual_seed(classes)
    prediction, runner_up, differences, lipschitz, epsilon = kept = saved(rows, classes)
    grad = torch.randn(max(1, rows * step), generator=generator).as_strided((rows,), (step,))
    shares = torch.randn(rows, classes, generator=generator), torch.randn(rows, generator=generator)
    half = rows // 2
    shares[1][half : 2 * half] = shares[1][:half]
    if step:  # the halves cancel, so that only float64 gives the sum for K
        grad[half : 2 * half] = -grad[:half]
        grad[_none(rows)] = torch.nan
    reaches = runner_up >= 0
    pair = (prediction * classes + runner_up)[reaches]
    logits = torch.empty(rows, classes, dtype=dtype)
    scattered = torch.zeros(rows, classes)
    scattered[reaches, runner_up[reaches]] = grad[reaches]
    for call, arguments, of_logits, of_bottom in (
        (margin_backward, (grad, logits, *kept), scattered, grad),
        (loss_backward, (grad, logits, *shares, *kept), grad[:, None] * shares[0], grad * shares[1]),
    ):
        found, found_d, found_k = call(*arguments, True)
        assert found.dtype == dtype
        torch.testing.assert_close(found, of_logits.to(dtype), rtol=0, atol=0, equal_nan=True)
        rise = (epsilon * of_bottom)[reaches]
        of_d, of_k = (rise * lipschitz).double(), rise.double() * differences.flatten()[pair].double()
        expected = torch.bincount(pair, of_d, minlength=classes**2).reshape(classes, classes)
        size = torch.bincount(pair, of_d.abs(), minlength=classes**2).reshape(classes, classes)
        assert found_d.dtype == found_k.dtype == torch.float32
        assert found_d.shape == differences.shape
        assert ((found_d.double() - expected).abs() <= 1e-5 * size).all()
        assert found_k.shape == ()
        assert (found_k.double() - of_k.sum()).abs() <= 2**-24 * of_k.sum().abs() + 1e-14 * of_k.abs().sum()
        again = call(*arguments, False)
        torch.testing.assert_close(again[0], found, rtol=0, atol=0, equal_nan=True)
        assert again[1].shape == (0, 0)
        assert torch.equal(again[2], found_k)
