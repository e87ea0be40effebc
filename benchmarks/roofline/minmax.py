"""MinMax: the activations of each network, with their biases."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.networks import NETWORKS, NUM_CLASSES, Network
from benchmarks.roofline.work import Work
from gloro_fast import architectures
from gloro_fast.nn.minmax import MinMax


def work() -> Iterator[Work]:
    """Yield forward and backward of each network's MinMax layers in one step, in float32 and bfloat16."""
    for network in NETWORKS.values():
        shapes = activation_shapes(network)
        for dtype in (torch.float32, torch.bfloat16):
            case = f"{network.case}, {str(dtype).removeprefix('torch.')}"
            forward = sum(_bytes(shape, dtype) for shape in shapes)
            backward = sum(_bytes(shape, dtype) + _bytes_of_sums(shape) for shape in shapes)
            yield Work("minmax forward", case, len(shapes), forward)
            # A second launch adds up the sums of the programs, a third brings them to a narrower type.
            yield Work("minmax backward", case, (2 if dtype == torch.float32 else 3) * len(shapes), backward)


def activation_shapes(network: Network) -> list[tuple[int, ...]]:
    """List the shapes that the network's MinMax layers see in one step."""
    module = architectures.build(network.name, input_shape=network.input_shape, num_classes=NUM_CLASSES)
    shapes: list[tuple[int, ...]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes.append((network.batch_size, *inputs[0].shape[1:]))

    for layer in module.modules():
        if isinstance(layer, MinMax):
            layer.register_forward_pre_hook(note)
    with torch.no_grad():
        module(torch.zeros(1, *network.input_shape))
    return shapes


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """One read and one write of each element, one bit a pair, one value a channel."""
    elements = torch.Size(shape).numel()
    return 2 * elements * dtype.itemsize + elements // 16 + shape[1] * dtype.itemsize


def _bytes_of_sums(shape: tuple[int, ...]) -> int:
    """Write and read of two float32 numbers for each pair and sample: the contiguous format's, which has the most."""
    return 2 * 4 * shape[0] * shape[1]
