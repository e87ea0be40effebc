"""The sequence of layers that a GloRo net executes, and what is known of each: it runs what it bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.execution import Step, fuse
from gloro_fast.nn.integrity import check_calls, check_module, check_weight
from gloro_fast.nn.rules import Knowledge, LinearMap, is_dense, lipschitz_rule


@dataclass(frozen=True)
class Layer:
    """One layer of the sequence.

    Attributes:
        name: its qualified name in the module.
        module: the layer itself.
        input_shape: shape of its input without the batch.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]

    def rule(self) -> Knowledge:
        """Give what is known of the layer with its present weights and in its present mode."""
        return lipschitz_rule(self.name, self.module, self.input_shape)


@dataclass(frozen=True)
class Plan:
    """The layers in the order of execution.

    Attributes:
        layers: all of them, the head included.
        num_classes: m, the logits of the last one.
        head: the last layer if it is dense, so that margins use its rows; else None.
        steps: what executes the layers.
    """

    layers: tuple[Layer, ...]
    num_classes: int
    head: nn.Linear | None
    steps: tuple[Step, ...]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((p.device for layer in self.layers for p in layer.module.parameters()), torch.device("cpu"))

    @property
    def body(self) -> tuple[Layer, ...]:
        """Everything before the head."""
        return self.layers[:-1] if self.head is not None else self.layers

    def run(self, x: Tensor) -> Tensor:
        """Execute the layers on a batch."""
        for step in self.steps:
            x = step(x)
        return x

    def linear_maps(self) -> list[LinearMap]:
        """Give the linear layers of the body with their present weights, in order."""
        return [rule for layer in self.body if isinstance(rule := layer.rule(), LinearMap)]

    def fits(self, module: nn.Module) -> bool:
        """Whether ``module`` still consists of the very same layer objects."""
        now = [leaf for _, leaf in leaves(module)]
        if len(now) != len(self.layers):
            return False
        return all(layer.module is leaf for layer, leaf in zip(self.layers, now, strict=True))


def leaves(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """List the layers of a module of nested ``Sequential`` with their names, in order of execution."""
    if type(module) is not nn.Sequential:
        return [(name, module)]
    found: list[tuple[str, nn.Module]] = []
    # Not named_children(): that leaves out the second use of a layer, which runs all the same.
    for child_name, child in module._modules.items():
        qualified = f"{name}.{child_name}" if name else child_name
        if child is None:
            raise ArchitectureError(f"{qualified} is None; give a layer")
        found += leaves(child, qualified)
    return found


def make_plan(module: nn.Module, input_shape: tuple[int, ...]) -> Plan:
    """Check every layer of ``module`` and find its shapes by running two images of zeros.

    Args:
        module: nested ``Sequential`` of layers with rules, from (B, *input_shape) to logits (B, m).
        input_shape: shape of one image.

    Raises:
        UnknownLayerError: a layer has no Lipschitz rule.
        ArchitectureError: shapes do not fit, fewer than two logits, the head shares a parameter, hooks.
    """
    check_integrity(module)
    named = leaves(module)
    if not named:
        raise ArchitectureError("the module has no layers; give one that ends in logits (B, m)")
    x = torch.zeros(2, *input_shape, device=_device(module), dtype=floating_dtype(module))
    layers, ranks = [], []
    with evaluation_mode(module), torch.no_grad():
        for name, leaf in named:
            layer = Layer(name, leaf, tuple(x.shape[1:]))
            check_weight(name, layer.rule())
            x = _step(layer, x)
            layers.append(layer)
            ranks.append(x.ndim)
    if x.ndim != 2:
        raise ArchitectureError(f"the module gives {tuple(x.shape)}; logits must be (B, m), so add a Flatten")
    if x.shape[1] < 2:
        raise ArchitectureError(f"the module gives {x.shape[1]} logit a row; a classifier needs at least 2 classes")
    last = layers[-1].module
    head = last if is_dense(last) else None
    assert head is None or isinstance(head, nn.Linear)
    if head is not None:
        _check_head_unshared(layers)
    return Plan(tuple(layers), x.shape[1], head, fuse([layer.module for layer in layers], ranks))


def check_integrity(module: nn.Module) -> None:
    """Refuse layers that are unknown or that may compute something else than their type says.

    Raises:
        UnknownLayerError, ArchitectureError: name the layer.
    """
    known = dict(leaves(module))
    for name, child in module.named_modules(remove_duplicate=False):
        if name in known:
            check_module(name, child)
        else:
            # A Sequential on the way to a layer, or a part of one, such as a parametrization.
            check_calls(name, child)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into evaluation mode for a while, then every submodule back into the mode it was in.

    ``train()`` and ``eval()`` are called, not the flag set: a layer may do more there.
    """
    modes = [(child, child.training) for child in module.modules()]
    if not any(training for _, training in modes):
        yield
        return
    module.eval()
    try:
        yield
    finally:
        # Parents first: each call reaches the children too.
        for child, training in modes:
            if child.training != training:
                child.train(training)


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Give the floating dtype of the module's parameters; torch's default if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _step(layer: Layer, x: Tensor) -> Tensor:
    """Run one layer on two images, its complaint about a shape turned into one line that names it."""
    where = f"{layer.name or 'the module'} ({type(layer.module).__name__})"
    try:
        result: Tensor = layer.module(x)
    except GloroFastError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise ArchitectureError(
            f"{where} does not take its input of shape {layer.input_shape}; check input_shape and the layers before "
            f"it: {str(error).splitlines()[0]}"
        ) from None
    if len(result) != 2:
        raise ArchitectureError(f"{where} makes {len(result)} images of 2; a layer must keep the batch as it is")
    return result


def _check_head_unshared(layers: list[Layer]) -> None:
    """Refuse a head whose parameters are another layer's as well: margins treat its rows as its own."""
    *body, head = layers
    own = [_memory(parameter) for parameter in head.module.parameters() if parameter.numel()]
    for layer in body:
        for name, parameter in layer.module.named_parameters():
            storage, first, last = _memory(parameter)
            if any(storage == theirs and first < end and start < last for theirs, start, end in own):
                raise ArchitectureError(
                    f"{layer.name}.{name} is also a parameter of the head {head.name}; give the head its own"
                )


def _memory(tensor: Tensor) -> tuple[int, int, int]:
    """Give the storage of ``tensor`` and the bytes of it that it spans."""
    start = tensor.storage_offset() * tensor.itemsize
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().data_ptr(), int(start), int(start + extent * tensor.itemsize)
