"""Statistics of a step in plain PyTorch: counts, and rows of a table."""

from __future__ import annotations

import pytest
import torch

from gloro_fast.ops.statistics import count, record_


def test_counts() -> None:
    labels, prediction = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 1, 1])
    certified = torch.tensor([True, False, True, True])
    correct, verified = count(labels, prediction, certified)
    assert (correct.item(), verified.item()) == (3, 2)
    assert correct.dtype == verified.dtype == torch.int64
    assert correct.shape == verified.shape == ()


def test_rows_are_recorded_one_after_the_other_without_a_graph() -> None:
    table, cursor = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    loss, lipschitz = torch.tensor(0.1, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    for step in range(2):
        record_(table, cursor, loss * (step + 1), torch.tensor(2**40 + 1), torch.tensor(3), lipschitz)
    assert not table.requires_grad
    assert cursor.tolist() == [2]
    assert table[0].tolist() == [torch.tensor(0.1).item(), 2**40 + 1, 3.0, 2.0]
    assert table[1, 0] == 2 * table[0, 0]


def test_counts_beside_a_loss_of_a_half_type_are_exact() -> None:
    table, cursor = torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    half = torch.tensor(0.5, dtype=torch.bfloat16)
    record_(table, cursor, half, torch.tensor(511), torch.tensor(257), half)
    assert table.tolist() == [[0.5, 511.0, 257.0, 0.5]]


def test_a_full_table_is_an_error() -> None:
    table, cursor = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([1])
    one = torch.tensor(1)
    with pytest.raises(IndexError, match=r"out of bounds|out of range"):
        record_(table, cursor, torch.tensor(0.0), one, one, torch.tensor(1.0))
