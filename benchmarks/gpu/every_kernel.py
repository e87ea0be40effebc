"""Every kernel of the GPU once, small and odd: for compute-sanitizer, under which nothing larger ends."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from benchmarks.gpu.rows import Rows, run
from gloro_fast import ops
from gloro_fast.ops import Geometry
from gloro_fast.ops.margin_loss_op import CRITERIA

_LAYERS = (
    ((5, 2, 3, 4), Geometry((2, 9, 8), (1, 2), ((1, 0), (2, 1)), (2, 1))),
    ((6, 2, 3), Geometry((4, 11), (3,), ((0, 2),), (1,), 2)),
    ((7, 33), Geometry((33,))),
)
_ACTIVATIONS = ((3, 6, 5, 7), (2, 8, 4, 4))


def measure(rows: Rows) -> None:
    """Run power iteration, MinMax, margin, losses and head differences, both ways, in every type that they take."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weights = [torch.randn(shape, device=rows.device, dtype=dtype, requires_grad=True) for shape, _ in _LAYERS]
        geometries = [geometry for _, geometry in _LAYERS]
        iterates = [torch.randn(geometry.input_shape, device=rows.device) for geometry in geometries]
        _backward(ops.power_iteration(weights, iterates, geometries, 2)[0])
        for shape, layout in itertools.product(_ACTIVATIONS, (torch.contiguous_format, torch.channels_last)):
            x = torch.randn(shape, device=rows.device, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
            bias = torch.randn(shape[1], device=rows.device, dtype=dtype, requires_grad=True)
            _backward(ops.minmax(x, bias)[0])
    for batch, classes in ((37, 11), (5, 40)):
        logits = torch.randn(batch, classes, device=rows.device, requires_grad=True)
        head = torch.randn(classes, 19, device=rows.device, requires_grad=True)
        lipschitz = torch.tensor(2.0, device=rows.device, requires_grad=True)
        labels = torch.randint(classes, (batch,), device=rows.device)
        for criterion in CRITERIA:
            loss, *_ = ops.margin_loss(logits, ops.head_differences(head), lipschitz, 0.3, labels, criterion, 1.5)
            _backward(loss)
        bottom, _, _ = ops.margin(logits, ops.head_differences(head), lipschitz, 0.3)
        _backward(bottom)
    if rows.device.type == "cuda":
        torch.cuda.synchronize()
    rows.say("every kernel has run")


def _backward(output: Tensor) -> None:
    output.sum().backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    run(measure)
