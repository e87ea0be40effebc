"""The Triton kernels of a step's statistics, interpreted and as PTX in a simulator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gloro_fast.native import extension
from gloro_fast.ops.statistics import count_reference, record_reference_

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
NUMBERS = (torch.tensor(0.1), torch.tensor(300), torch.tensor(2**40 + 1), torch.tensor(3.7, dtype=torch.float64))


def check_counts(call: Any, images: int, planted: tuple[str, str, str] | None = None) -> None:
    generator = torch.Generator().manual_seed(images)
    labels, prediction = (torch.randint(3, (images,), generator=generator) for _ in range(2))
    certified = torch.rand(images, generator=generator) < 0.5
    found = call("statistics", "count", labels, prediction, certified, planted=planted)
    assert found.dtype == torch.int64
    assert found.tolist() == [int(number) for number in count_reference(labels, prediction, certified)]


@pytest.mark.parametrize("images", [0, 1, 100, 1024, 2500])
def test_counts(call: Any, images: int) -> None:
    check_counts(call, images)


def test_counts_of_labels_of_any_stride(call: Any) -> None:
    labels = torch.arange(20) % 3
    found = call("statistics", "count", labels[::2], labels[::2].contiguous(), torch.ones(10, dtype=torch.bool))
    assert found.tolist() == [10, 10]


def check_record(call: Any, planted: tuple[str, str, str] | None = None) -> None:
    table, cursor = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    expected, place = table.clone(), cursor.clone()
    for _ in range(2):
        call("statistics", "record_", table, cursor, *NUMBERS, planted=planted)
        record_reference_(expected, place, *NUMBERS)
    assert torch.equal(table, expected)
    assert torch.equal(cursor, place)


def test_a_row_is_recorded(call: Any) -> None:
    check_record(call)


def test_a_full_table_stays_as_it_is(call: Any) -> None:
    """The simulator would see a write beyond it."""
    table, cursor = torch.zeros(2, 4, dtype=torch.float64), torch.tensor([2])
    call("statistics", "record_", table, cursor, *NUMBERS)
    assert not table.any()
    assert cursor.item() == 3


@pytest.mark.parametrize(
    ("function", "place", "value", "message"),
    [
        ("count", 0, torch.zeros(4, 3), "labels, prediction and certified must be int64, int64 and bool of one shape"),
        ("count", 2, torch.zeros(4), "bool of one shape .* torch.float32"),
        ("record_", 0, torch.zeros(3, 4), "of float64, got torch.float32"),
        ("record_", 0, torch.zeros(3, 5).double(), r"\(steps, 4\) of float64"),
        ("record_", 1, torch.zeros(1), "cursor must be"),
        ("record_", 2, torch.zeros(2), "four scalars"),
    ],
)
def test_what_does_not_fit_is_refused(function: str, place: int, value: torch.Tensor, message: str) -> None:
    kernels = pytest.importorskip("gloro_fast.kernels.statistics")
    fitting = {
        "count": [torch.zeros(4, dtype=torch.int64)] * 2 + [torch.zeros(4, dtype=torch.bool)],
        "record_": [torch.zeros(3, 4).double(), torch.zeros(1, dtype=torch.int64), *NUMBERS],
    }
    arguments = fitting[function]
    arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        getattr(kernels, function)(*arguments)


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("counts", "right = inside & ", "right = "),
        ("counts", "signed = right & ", "signed = inside & "),
        ("record", "table + 4 * row + 3", "table + 4 * row + 2"),
        ("record", "tl.load(verified).to(tl.float64)", "tl.load(verified).to(tl.float32)"),
        ("record", "tl.store(cursor, row + 1)", "tl.store(cursor, row)"),
    ],
    ids=["tail", "certified_alone", "column", "rounded", "cursor"],
)
def test_a_planted_bug_is_caught(call: Any, check: str, old: str, new: str) -> None:
    planted = ("statistics", old, new)
    with pytest.raises(AssertionError):
        check_counts(call, 1500, planted) if check == "counts" else check_record(call, planted)
