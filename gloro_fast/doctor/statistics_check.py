"""The statistics of a step: counts of batches, and the rows that they are recorded in."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.statistics import count, count_reference, record_

_BATCHES = (0, 1, 512, 3001)


@check("statistics")
def check_statistics(device: torch.device) -> Iterator[str | None]:
    """Yield for each size of a batch whether its counts are right, and then whether all of them were recorded."""
    generator = torch.Generator().manual_seed(0)
    number = torch.tensor(0.1)
    table = torch.zeros(len(_BATCHES), 4, dtype=torch.float64, device=device)
    cursor = torch.zeros(1, dtype=torch.int64, device=device)
    rows = []
    for images in _BATCHES:
        labels, prediction = (torch.randint(3, (images,), generator=generator) for _ in range(2))
        certified = torch.rand(images, generator=generator) < 0.5
        correct, verified = count(labels.to(device), prediction.to(device), certified.to(device))
        expected = torch.stack(count_reference(labels, prediction, certified))
        yield difference(f"counts, {images} images", torch.stack([correct, verified]), expected)
        record_(table, cursor, number.to(device), correct, verified, number.to(device))
        rows.append(torch.tensor([float(number), *expected.tolist(), float(number)], dtype=torch.float64))
    yield difference("table", table, torch.stack(rows)) or difference("cursor", cursor, torch.tensor([len(_BATCHES)]))
