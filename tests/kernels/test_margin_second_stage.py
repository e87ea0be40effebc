"""The second stage of the margin's gradients: what the rows say of D and K, added up by pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from gloro_fast.kernels.margin_rows import gradients_of_bounds

EPSILON = torch.tensor(0.3, dtype=torch.float64)


def rows_of(count: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of bottom, predictions, runners-up (a few of them none), D and K."""
    generator = torch.Generator().manual_seed(count)
    prediction = torch.randint(classes, (count,), generator=generator)
    runner_up = (prediction + torch.randint(1, classes, (count,), generator=generator)) % classes
    runner_up[::7] = -1
    differences = torch.rand(classes, classes, generator=generator) + 0.5
    return torch.randn(count, generator=generator), prediction, runner_up, differences, torch.tensor(0.7)


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (2000, 3), (512, 10), (300, 1000)])
def test_sums_by_pair(count: int, classes: int) -> None:
    """To 1e-6 of what was added up."""
    grad, prediction, runner_up, differences, lipschitz = rows_of(count, classes)
    found, found_k = gradients_of_bounds(grad, prediction, runner_up, differences, lipschitz, EPSILON, True)
    reaches = runner_up >= 0
    rise = EPSILON * grad.double()[reaches]
    pair = (prediction * classes + runner_up)[reaches]
    of_d = rise * lipschitz.double()
    of_k = rise * differences.double().flatten()[pair]
    expected = torch.bincount(pair, of_d, minlength=classes**2).reshape(classes, classes)
    size = torch.bincount(pair, of_d.abs(), minlength=classes**2).reshape(classes, classes)
    assert found.dtype == found_k.dtype == torch.float32
    assert ((found.double() - expected).abs() <= 1e-6 * size).all()
    assert (found_k.double() - of_k.sum()).abs() <= 1e-6 * of_k.abs().sum()


@pytest.mark.parametrize("asked_for", [False, True])
def test_the_same_bits_in_every_run(asked_for: bool) -> None:
    arguments = rows_of(5000, 4)
    first = gradients_of_bounds(*arguments, EPSILON, True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(asked_for)
    try:
        for _ in range(5):
            for again, once in zip(gradients_of_bounds(*arguments, EPSILON, True), first, strict=True):
                assert torch.equal(again, once)
    finally:
        torch.use_deterministic_algorithms(before)


def test_a_row_without_a_bound_gives_nothing() -> None:
    grad, prediction, runner_up, differences, lipschitz = rows_of(8, 3)
    runner_up[:] = -1
    grad[0] = torch.nan
    found = gradients_of_bounds(grad, prediction, runner_up, differences * torch.inf, lipschitz, EPSILON, True)
    assert all((gradient == 0).all() for gradient in found)
