"""Signing certificates: the bits of the reference, doubts about weights and images included."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.certify import certify_logits, certify_logits_reference
from gloro_fast.ops.image_codes import NOT_FINITE, OUTSIDE
from gloro_fast.ops.verdict import Verdict, verdict, verdict_reference

_SPECIAL = (0.0, -0.0, 9.0, 9.0, torch.inf, -torch.inf, torch.nan)


@check("verdict")
def check_verdict(device: torch.device) -> Iterator[str | None]:
    """Yield for each number of classes and type whether everything that is signed is right."""
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 10, 37, 1000):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            logits, differences = _problem(classes, dtype, generator)
            name = f"{classes} classes, {str(dtype).removeprefix('torch.')}"
            found = certify_logits(logits.to(device), differences.to(device), 1.3, 0.05)
            expected = certify_logits_reference(logits, differences, 1.3, 0.05)
            for what, one, other in zip(Verdict._fields, found, expected, strict=False):
                yield difference(f"{what}, {name}", one, other)
    images = torch.tensor([0, OUTSIDE, NOT_FINITE], dtype=torch.uint8)[torch.arange(len(logits)) % 3]
    shares = torch.randint(-(2**63), 2**63 - 1, (20, 64), generator=generator)
    for changed in (None, 0, 19):
        signed = shares.sum(dim=1)
        if changed is not None:
            signed[changed] ^= 1
        expected_verdict = verdict_reference(logits, differences, 1.3, 0.05, images, shares, signed)
        first, second, *doubts = (value.to(device) for value in (logits, differences, images, shares, signed))
        found_verdict = verdict(first, second, 1.3, 0.05, *doubts)
        for what, one, other in zip(Verdict._fields, found_verdict, expected_verdict, strict=True):
            yield difference(f"{what}, changed tensor: {changed}", one, other)


def _problem(classes: int, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits, odd numbers in some of the rows, and distances between heads."""
    logits = torch.randn(40, classes, generator=generator).to(dtype)
    which = torch.randint(len(_SPECIAL), logits.shape, generator=generator)
    odd = torch.rand(logits.shape, generator=generator) < torch.rand(40, 1, generator=generator) * 4 / classes
    logits = torch.where(odd, torch.tensor(_SPECIAL, dtype=dtype)[which], logits)
    return logits, torch.rand(classes, classes, generator=generator, dtype=torch.float64).fill_diagonal_(0.0)
