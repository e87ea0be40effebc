"""Trying out whether a captured graph computes what its module computes, before anything rests on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.graph.node import Layer, Node
from gloro_fast.graph.operations import Within
from gloro_fast.graph.restoring import restored
from gloro_fast.graph.undisturbed import undisturbed
from gloro_fast.rules.registry import LinearMap, known_type, traits_of

SIZES = (1, 2, 3, 8)
"""The numbers of images that are tried."""

_CHANCE = (
    "the module draws random numbers in evaluation, in its forward or in a parametrization; what is certified must be "
    "the same each time"
)
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
            changes its buffers or parameters; a layer is another linear map than its settings say.
    """
    parameters = [] if training else list(module.named_parameters())
    with kept(parameters) as moved:
        _compare(module, nodes, output, execute, image, training)
    if moved:
        raise ArchitectureError(
            f"the module changes its parameter {moved[0]} in evaluation, so that its weights differ each time they are "
            "read; give the layer its weight as it is, by torch.nn.utils.parametrize.remove_parametrizations"
        )


def _compare(
    module: nn.Module,
    nodes: Sequence[Node],
    output: int,
    execute: Callable[[Tensor], Tensor],
    image: Tensor,
    training: bool,
) -> None:
    numbers = torch.Generator().manual_seed(0)
    with restored(module), undisturbed(image.device), torch.no_grad():
        if not training:
            _check_repeats(module, image, numbers)
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
            assert got is not None
            _check_each_image(module, execute, x, got)
            for node in nodes:
                _check_linear(node, image, numbers)
                _check_fused(node, image, numbers)


def run_once(module: nn.Module, image: Tensor) -> None:
    """Run a module on two images, so that what it computes once and keeps is there before it is captured.

    Such as a table of positions behind ``functools.cache``, which would keep a tensor without values else.
    """
    with restored(module), undisturbed(image.device), torch.no_grad(), kept(list(module.named_parameters())):
        _run(module, module, image.new_zeros(2, *image.shape[1:]), True)


def _check_repeats(module: nn.Module, image: Tensor, numbers: torch.Generator) -> None:
    """Refuse a module that gives other logits each time: Python's and NumPy's random numbers are seen by that alone."""
    x = torch.rand(2, *image.shape[1:], generator=numbers).to(image)
    first, second = (_run(module, module, x, False)[0] for _ in range(2))
    if isinstance(first, Tensor) and not _agree(first, second):
        raise ArchitectureError(_CHANCE)


def _check_each_image(module: nn.Module, execute: Callable[[Tensor], Tensor], x: Tensor, wanted: Tensor) -> None:
    """Refuse a net in which an image's logits depend on its place in the batch."""
    turned, _ = _run(module, execute, x.flip(0), False)
    if turned is None or not _agree(turned.flip(0), wanted):
        raise ArchitectureError(
            "the logits of an image depend on its place in the batch; compute the same for every image"
        )


def _run(module: nn.Module, call: Callable[[Tensor], Any], x: Tensor, training: bool) -> tuple[Tensor | None, str]:
    """Return what ``call`` gives, or why it fails; buffers and generators are put back."""
    try:
        with kept(list(module.named_buffers())) as moved, _watched_draws(x.device) as draws:
            result = call(x.clone())
    except Exception as error:
        return None, str(error).splitlines()[0] if str(error) else type(error).__name__
    if not training and draws.drew:
        raise ArchitectureError(_CHANCE)
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
    """Refuse a layer that is another linear map than its rule says, as one of PyTorch's whose settings were edited.

    Of layers that are not PyTorch's the rule may give a map that only has the same norm, unless their traits say
    otherwise.
    """
    layer = node.transfer
    if not isinstance(layer, Layer) or layer.module is not node.operation:
        return
    traits = traits_of(layer.module)
    is_torchs = known_type(layer.module).__module__.startswith("torch.nn.")
    if not (is_torchs or traits.is_its_map or traits.rounding == "sums"):
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


def _check_fused(node: Node, image: Tensor, numbers: torch.Generator) -> None:
    """Refuse a layer of others whose traits let the next one write over memory that is not free, or lie of the bias."""
    layer = node.transfer
    if not isinstance(layer, Layer) or layer.module is not node.operation or _is_of_a_library(layer.module):
        return
    module, traits = layer.module, traits_of(layer.module)
    if traits.without_bias is None and not traits.spares_output:
        return
    x = torch.rand(2, *layer.input_shape, generator=numbers).to(image)
    wanted = module.forward(x)
    taken = {tensor.untyped_storage()._cdata for tensor in (x, *module.parameters(), *module.buffers())}
    bare = wanted if traits.without_bias is None else traits.without_bias(module, x)
    whole = bare
    if traits.without_bias is not None and isinstance(module.bias, Tensor):
        whole = bare + module.bias.reshape(-1, *[1] * (wanted.ndim - 2))
    is_new = all(result.untyped_storage()._cdata not in taken for result in (wanted, bare))
    if not (is_new and _agree(whole, wanted)):
        raise ArchitectureError(
            f"{node.name or 'the module'} ({type(module).__name__}) has traits that do not hold: its output is no new "
            "memory, or what it computes without its bias is something else; correct them"
        )


def _is_of_a_library(module: nn.Module) -> bool:
    return known_type(module).__module__.startswith(("torch.nn.", "gloro_fast."))


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
def kept(tensors: Sequence[tuple[str, Tensor]]) -> Iterator[list[str]]:
    """Put the values of tensors back afterwards; the list given has then the names of those that had changed."""
    before = [(name, tensor, tensor.detach().clone()) for name, tensor in tensors if not tensor.is_meta]
    changed: list[str] = []
    try:
        yield changed
    finally:
        with torch.no_grad():
            for name, tensor, values in before:
                if not _equal(tensor, values):
                    changed.append(name)
                    tensor.copy_(values)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether this thread draws random numbers; others may draw meanwhile, from the same generator."""

    drew = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.drew |= torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched_draws(device: torch.device) -> Iterator[_Draws]:
    """Check whether random numbers were drawn, and put the generators back if they were."""
    kept = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    with _Draws() as draws:  # type: ignore[no-untyped-call]
        try:
            yield draws
        finally:
            if draws.drew:
                torch.set_rng_state(kept[0])
                if kept[1] is not None:
                    torch.cuda.set_rng_state(kept[1], device)
