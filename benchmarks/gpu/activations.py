"""MinMax with the bias, both ways, beside ReLU and a copy."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.rows import Rows, run
from gloro_fast import ops

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def measure(rows: Rows) -> None:
    """Time MinMax, ReLU and copies of a large activation, in both memory formats and precisions."""
    for dtype in (torch.float32, torch.bfloat16):
        for name in FORMATS:
            _compare(rows, name, dtype)


def _compare(rows: Rows, layout: str, dtype: torch.dtype) -> None:
    shape = (2, 8, 8, 8) if rows.fast else (256, 64, 64, 64)
    x = torch.randn(shape, device=rows.device, dtype=dtype).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    bias = torch.zeros(shape[1], device=rows.device, dtype=dtype, requires_grad=True)
    gradient = torch.randn_like(x)
    case = f"{'x'.join(map(str, shape))}, {layout}, {str(dtype).removeprefix('torch.')}"
    ours = rows.row(f"{case}: minmax with bias", lambda: partial(_minmax, x, bias, gradient))
    relu = rows.row(f"{case}: relu", lambda: partial(_relu, x, gradient))
    rows.row(f"{case}: two copies", lambda: lambda: (x.detach().clone(), gradient.clone()))
    rows.ratio("minmax with bias / relu", ours, relu)


def _minmax(x: Tensor, bias: Tensor, gradient: Tensor) -> None:
    torch.autograd.grad(ops.minmax(x, bias)[0], (x, bias), gradient)


def _relu(x: Tensor, gradient: Tensor) -> None:
    torch.autograd.grad(F.relu(x), x, gradient)


if __name__ == "__main__":
    run(measure)
