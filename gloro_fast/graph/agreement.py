"""Trying out whether a captured graph computes what its module computes, before anything rests on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.node import Layer, Node
from gloro_fast.graph.operations import Within
from gloro_fast.graph.restoring import restored
from gloro_fast.graph.undisturbed import undisturbed
from gloro_fast.nn.rules import LinearMap, known_type

SIZES = (1, 2, 3, 8)
"""The numbers of images that are tried."""

# Both run the same operations on the same numbers: what is left are kernels that sum in another order.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_TOLERANCE_OF_HALF = 0.05


def check_agreement(
    module: nn.Module,
    nodes: Sequence[Node],
    output: int,
    execute: Callable[[Tensor], Tensor],
    image: Tensor,
    training: bool,
) -> None:
    """Run module and graph on random batches, in the mode in which the module is, and refuse what differs.

    Weights, buffers, attributes and generators are afterwards as they were before.

    Args:
        module: the module.
        nodes: its graph.
        output: the node of what the module returns.
        execute: what executes the nodes.
        image: (1, *input_shape), of the dtype and on the device of the network.
        training: whether random numbers and changing buffers are in order.

    Raises:
        ArchitectureError: outputs differ by more than rounding, or, in evaluation, the module draws random numbers or
            changes its buffers; a layer is another linear map than its settings say.
    """
    with restored(module), undisturbed(image.device), torch.no_grad(), _generators(image.device) as numbers:
        for count in SIZES:
            x = torch.rand(count, *image.shape[1:], generator=numbers).to(image) * 2 - 0.5
            wanted, complaint = _run(module, module, x, training)
            if wanted is None:
                if count > 1:
                    raise ArchitectureError(f"the module fails on {count} images: {complaint}")
                continue  # BatchNorm in training, or squeeze(), which takes the batch away.
            got, complaint = _run(module, execute, x, training)
            if got is None:
                raise ArchitectureError(
                    f"the graph of the module fails on {count} images, the module does not: {complaint}"
                )
            if not _agree(got, wanted):
                _refuse_hooks(module)
                raise ArchitectureError(
                    f"the graph of the module computes something else than the module for {count} images, "
                    f"{_first_difference(module, nodes, x)}: its forward asks for something that a batch without "
                    "values answers otherwise, such as type(x) or the number of images; write it without, or register "
                    "a rule"
                )
        if not training:
            for node in nodes:
                _check_linear(node, image, numbers)


def _run(module: nn.Module, call: Callable[[Tensor], Any], x: Tensor, training: bool) -> tuple[Tensor | None, str]:
    """Return what ``call`` gives, or why it fails; buffers and generators are put back."""
    before = _state(x.device)
    try:
        with kept_buffers(module) as moved:
            result = call(x.clone())
    except Exception as error:
        return None, str(error).splitlines()[0] if str(error) else type(error).__name__
    finally:
        drew = _state(x.device) != before
        _set_state(before, x.device)
    if not training and drew:
        raise ArchitectureError(
            "the module draws random numbers in evaluation, in its forward or in a parametrization; what is certified "
            "must be the same each time"
        )
    if not training and moved:
        raise ArchitectureError(
            f"the module changes its buffer {moved[0]} in evaluation; change buffers in training only"
        )
    return result, ""


def _agree(got: Tensor, wanted: Any) -> bool:
    if not isinstance(wanted, Tensor) or wanted.numel() != got.numel() or wanted.dtype != got.dtype:
        return False
    wanted = wanted.reshape(got.shape)
    usable = wanted.isfinite()
    if not torch.equal(usable, got.isfinite()):
        return False
    difference, size = (got - wanted)[usable].abs(), wanted[usable].abs()
    if not difference.numel():
        return True
    return bool(difference.max() <= _TOLERANCE.get(got.dtype, _TOLERANCE_OF_HALF) * size.max())


def _first_difference(module: nn.Module, nodes: Sequence[Node], x: Tensor) -> str:
    """Say at which layer a module and its graph part."""
    called: list[tuple[nn.Module, Tensor]] = []
    layers = {id(node.operation) for node in nodes if isinstance(node.operation, nn.Module)}
    call = nn.Module.__call__

    def noted(layer: nn.Module, *args: Any, **keywords: Any) -> Any:
        result = call(layer, *args, **keywords)
        if id(layer) in layers and isinstance(result, Tensor):
            called.append((layer, result.clone()))
        return result

    with mock.patch.object(nn.Module, "__call__", noted):
        _run(module, module, x, True)
    values: list[Any] = []
    place = 0
    for node in nodes:
        operation = node.operation.operation if isinstance(node.operation, Within) else node.operation
        values.append(x.clone() if operation is None else node.operation(*(values[i] for i in node.inputs)))  # type: ignore[misc]
        if isinstance(operation, nn.Module) and isinstance(node.transfer, Layer):
            if place >= len(called) or called[place][0] is not operation:
                return f"first at {node.name}"
            if not _agree(values[-1], called[place][1]):
                return f"first before or at {node.name}"
            place += 1
    return f"after {nodes[-1].name}" if place == len(called) else "at a layer that it leaves out"


def _refuse_hooks(module: nn.Module) -> None:
    """Name a hook where module and graph differ: a net calls none, so that they may look, and change nothing."""
    for name, child in module.named_modules():
        if child._forward_hooks or child._forward_pre_hooks:
            raise ArchitectureError(
                f"{name or 'the module'} ({type(child).__name__}) has a forward hook that changes values, and a net "
                "calls no hooks; remove it"
            )
    everywhere = torch.nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        raise ArchitectureError(
            "all modules have a forward hook that changes values, and a net calls no hooks; remove it"
        )


def _check_linear(node: Node, image: Tensor, numbers: torch.Generator) -> None:
    """Refuse a layer of PyTorch whose settings were edited so that it is another linear map than its rule says."""
    layer = node.transfer
    if not isinstance(layer, Layer) or layer.module is not node.operation:
        return
    if not known_type(layer.module).__module__.startswith(("torch.nn.", "gloro_fast.")):
        return
    rule = layer.rule()
    if not isinstance(rule, LinearMap) or rule.factor != 1.0:
        return
    weight = rule.weight.detach()
    x = torch.rand(1, *layer.input_shape, generator=numbers).to(image).to(weight.dtype)
    try:
        moved, still = layer.module.forward(x)[0], layer.module.forward(torch.zeros_like(x))[0]
        if rule.transposed:
            told = rule.geometry.adjoint(weight, x[0])
        elif rule.geometry.is_dense:
            told = x[0] @ weight.T
        else:
            told = rule.geometry.apply(weight, x[0])
    except GloroFastError:
        raise
    except Exception:
        told = None
    if told is None or not _fits(moved, still, told):
        raise ArchitectureError(
            f"{node.name or 'the module'} ({type(layer.module).__name__}) computes something else than its settings "
            "and weight say; were they edited after it was made? Make a new layer with these settings"
        )


def _fits(moved: Tensor, still: Tensor, told: Tensor) -> bool:
    found, size = moved - still, torch.cat([moved.flatten().abs(), still.flatten().abs()])
    if not found.numel() or not size.isfinite().all():
        return True
    # Rows that an output_padding adds beyond the last tap are always zero.
    if found.ndim != told.ndim or any(a < b for a, b in zip(found.shape, told.shape, strict=True)):
        return False
    inside = tuple(slice(0, size) for size in told.shape)
    rest = found.clone()
    rest[inside] = 0
    tolerance = _TOLERANCE.get(found.dtype, _TOLERANCE_OF_HALF) * size.amax()
    return bool((found[inside] - told).abs().amax() <= tolerance) and bool(rest.abs().amax() <= tolerance)


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[list[str]]:
    """Put the values of buffers back afterwards; the list given has then the names of those that had changed."""
    buffers = [(name, buffer, buffer.clone()) for name, buffer in module.named_buffers() if not buffer.is_meta]
    changed: list[str] = []
    try:
        yield changed
    finally:
        with torch.no_grad():
            for name, buffer, kept in buffers:
                if not _equal(buffer, kept):
                    changed.append(name)
                    buffer.copy_(kept)


@contextmanager
def _generators(device: torch.device) -> Iterator[torch.Generator]:
    """Put the generators back afterwards, and give one of our own."""
    before = _state(device)
    try:
        yield torch.Generator().manual_seed(0)
    finally:
        _set_state(before, device)


def _state(device: torch.device) -> tuple[Any, ...]:
    own = torch.cuda.get_rng_state(device).numpy().tobytes() if device.type == "cuda" else b""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), own, random.getstate(), (kind, np.asarray(keys).tobytes(), *rest)


def _set_state(state: tuple[Any, ...], device: torch.device) -> None:
    if _state(device) == state:
        return
    everyone, own, python, (kind, keys, *rest) = state
    torch.set_rng_state(torch.frombuffer(bytearray(everyone), dtype=torch.uint8))
    if own:
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(own), dtype=torch.uint8), device)
    random.setstate(python)
    np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))  # noqa: NPY002
