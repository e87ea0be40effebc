"""The fingerprint of weights: that of the reference, and another one for any changed bit."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gloro_fast.doctor.examination import check
from gloro_fast.ops.fingerprint_op import fingerprint, fingerprint_reference


@check("fingerprint")
def check_fingerprint(device: torch.device) -> Iterator[str | None]:
    """Yield for each list of tensors whether its fingerprint is right."""
    generator = torch.Generator().manual_seed(0)
    for sizes in (((0,), (1,)), ((1000, 3), (70001,)), ((70001,),)):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            tensors = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
            placed = [tensor.to(device) for tensor in tensors]
            for some in (tensors, placed):
                some.append(some[0].t() if some[0].dim() == 2 else some[0][1:])
            same = torch.equal(fingerprint(placed).cpu(), fingerprint_reference(tensors))
            yield None if same else f"{sizes} of {dtype}: the fingerprint is not that of the reference"
