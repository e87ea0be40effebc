"""The sequence of layers that a GloRo net executes, and what is known of each: it runs what it bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError, GloroFastError
from gloro_fast.execution import Step, fuse
from gloro_fast.nn.rules import LinearMap, LipschitzConstant, check_known, is_linear, lipschitz_rule


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

    def rule(self) -> LinearMap | LipschitzConstant:
        """Give what is known of the layer with its present weights."""
        return lipschitz_rule(self.name, self.module, self.input_shape)


@dataclass(frozen=True)
class Plan:
    """The layers in the order of execution.

    Attributes:
        layers: all of them, the head included.
        num_classes: m, the logits of the last one.
        head: the last layer if it is dense, so that margins use its rows; else None.
        linear: the layers before the head whose spectral norms make K.
        constant: what the other layers before the head contribute to K.
        steps: what executes the layers.
    """

    layers: tuple[Layer, ...]
    num_classes: int
    head: nn.Linear | None
    linear: tuple[Layer, ...]
    constant: float
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
        maps = []
        for layer in self.linear:
            rule = layer.rule()
            assert isinstance(rule, LinearMap)
            maps.append(rule)
        return maps

    def fits(self, module: nn.Module) -> bool:
        """Whether ``module`` still consists of the very same layer objects.

        Raises:
            UnknownLayerError, ArchitectureError: a layer has become unknown or got a hook since.
        """
        now = list(leaves(module))
        for name, leaf in now:
            check_known(name, leaf)
        return [id(layer.module) for layer in self.layers] == [id(leaf) for _, leaf in now]


def leaves(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Give the layers of a module of nested ``Sequential`` with their names, in order of execution.

    Raises:
        ArchitectureError: a Sequential has a hook or a replaced forward.
    """
    if type(module) is not nn.Sequential:
        yield name, module
        return
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise ArchitectureError(f"{name or 'the module'} has a forward hook or a replaced forward; remove it")
    # Not named_children(): that leaves out the second use of a layer, which runs all the same.
    for child_name, child in module._modules.items():
        assert child is not None
        yield from leaves(child, f"{name}.{child_name}" if name else child_name)


def make_plan(module: nn.Module, input_shape: tuple[int, ...]) -> Plan:
    """Check every layer of ``module`` and find its shapes by running one image of zeros.

    Args:
        module: nested ``Sequential`` of layers with rules, from (B, *input_shape) to logits (B, m).
        input_shape: shape of one image.

    Raises:
        UnknownLayerError: a layer has no Lipschitz rule.
        ArchitectureError: shapes do not fit, fewer than two logits, or the head shares a parameter.
    """
    named = list(leaves(module))
    for name, leaf in named:
        check_known(name, leaf)
    if not named:
        raise ArchitectureError("the module has no layers; give one that ends in logits (B, m)")
    x = torch.zeros(1, *input_shape, device=_device(module), dtype=floating_dtype(module))
    layers, rules, ranks = [], [], []
    with evaluation_mode(module), torch.no_grad():
        for name, leaf in named:
            layer = Layer(name, leaf, tuple(x.shape[1:]))
            x = _step(layer, x)
            rules.append(layer.rule())
            layers.append(layer)
            ranks.append(x.ndim)
    if x.ndim != 2:
        raise ArchitectureError(f"the module gives {tuple(x.shape)}; logits must be (B, m), so add a Flatten")
    if x.shape[1] < 2:
        raise ArchitectureError(f"the module gives {x.shape[1]} logit a row; a classifier needs at least 2 classes")
    last = layers[-1].module
    head = last if is_linear(last) else None
    assert head is None or isinstance(head, nn.Linear)
    if head is not None:
        _check_head_unshared(layers)
        rules.pop()
    linear = [layer for layer, rule in zip(layers, rules, strict=False) if isinstance(rule, LinearMap)]
    constant = math.prod(rule.value for rule in rules if isinstance(rule, LipschitzConstant))
    steps = fuse([layer.module for layer in layers], ranks)
    return Plan(tuple(layers), x.shape[1], head, tuple(linear), constant, steps)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into evaluation mode for a while, then every submodule back into the mode it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Give the floating dtype of the module's parameters; torch's default if it has none."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _step(layer: Layer, x: Tensor) -> Tensor:
    """Run one layer, its complaint about a shape turned into one line that names it."""
    try:
        result: Tensor = layer.module(x)
    except GloroFastError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise ArchitectureError(
            f"{layer.name or 'the module'} ({type(layer.module).__name__}) does not take its input of shape "
            f"{layer.input_shape}; check input_shape and the layers before it: {str(error).splitlines()[0]}"
        ) from None
    return result


def _check_head_unshared(layers: list[Layer]) -> None:
    """Refuse a head whose parameters are another layer's as well: margins treat its rows as its own."""
    *body, head = layers
    own = {parameter.data_ptr() for parameter in head.module.parameters() if parameter.numel()}
    for layer in body:
        for name, parameter in layer.module.named_parameters():
            if parameter.data_ptr() in own:
                raise ArchitectureError(
                    f"{layer.name}.{name} is also a parameter of the head {head.name}; give the head its own"
                )
