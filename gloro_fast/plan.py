"""What a GloRo net executes, and what is known of it: it runs the graph that it bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.execution import Program, program
from gloro_fast.graph.aliasing import check_overwriting
from gloro_fast.graph.composition import Composition, compose
from gloro_fast.graph.head import Head, find_head
from gloro_fast.graph.merging import Merged, mergeable
from gloro_fast.graph.node import Joining, Layer, Mapping, Node, unregistered
from gloro_fast.graph.operations import Function
from gloro_fast.graph.reading import read
from gloro_fast.graph.tracing import trace
from gloro_fast.nn.integrity import check_calls, check_module
from gloro_fast.nn.rules import Knowledge, LinearMap, has_rule

Margins = Literal["rows", "whole"]
Kept = tuple[tuple[str, bool | int | float | str], ...]

_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class Plan:
    """A graph, how it is executed, and how its constant is composed.

    Attributes:
        nodes: the operations in order of execution, the input of the network first.
        output: the node of the logits.
        num_classes: m, the logits.
        head: the last dense layer, so that margins use its rows; None if the graph ends otherwise.
        program: what executes the nodes.
        composition: the constant of everything before the head, or of all without one.
        modules: the module and those within that were traced through, each with its children, its mode and the
            numbers and names that it kept, which may be part of the graph.
        layers: every module within, itself included.
        dtype: the floating dtype of the parameters.
    """

    nodes: tuple[Node, ...]
    output: int
    num_classes: int
    head: Head | None
    program: Program
    composition: Composition
    modules: tuple[tuple[nn.Module, tuple[nn.Module | None, ...], bool, Kept], ...]
    layers: tuple[nn.Module, ...]
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return _device(self.modules[0][0])

    @property
    def parts(self) -> tuple[Mapping | Merged, ...]:
        """What the constant is composed of, in order of execution."""
        return self.composition.parts

    @property
    def margin_form(self) -> str:
        """Say which constants margins have."""
        return "K_ij = sqrt(2) K, K of the whole net" if self.head is None else self.head.form

    def run(self, x: Tensor) -> Tensor:
        """Execute the graph on a batch."""
        return self.program(x)

    def linear_maps(self) -> list[LinearMap]:
        """Give the linear maps that the constant is composed of with their present weights, in order."""
        return [rule for part in self.parts if isinstance(rule := part.rule(), LinearMap)]

    def rules(self) -> list[tuple[str, Knowledge]]:
        """List what the rule of every layer and function says now."""
        return [
            (node.name, node.transfer.rule())
            for node in self.nodes
            if node.transfer is not None and not isinstance(node.transfer, Joining)
        ]

    def sequence(self) -> list[Layer]:
        """List the layers before the head of a graph that is nothing but a sequence of layers.

        Raises:
            ArchitectureError: it is more than that; names the first such operation.
        """
        layers = []
        for part in self.parts:
            if not isinstance(part, Layer) or len(self.composition.steps) > 1:
                raise ArchitectureError(
                    f"{part.name} is more than one layer after the other, whose rounding is not bounded; certify "
                    "without executed"
                )
            layers.append(part)
        return layers

    def unregistered(self) -> list[tuple[str, Tensor]]:
        """List the tensors that the graph reads and that are neither parameters nor buffers."""
        return unregistered(self.nodes)

    def fits(self, module: nn.Module) -> bool:
        """Whether ``module`` still consists of the very same modules."""
        if module is not self.modules[0][0]:
            return False
        for known, children, *_ in self.modules:
            now = known._modules
            if len(now) != len(children):
                return False
            for mine, its in zip(children, now.values(), strict=True):
                if mine is not its:
                    return False
        return True

    def fits_state(self) -> bool:
        """Whether every module that was traced through is in the mode, and keeps the numbers, with which it was traced.

        And whether no hook has come since, nor another dtype. Asked at every training step.
        """
        if torch.compiler.is_compiling():
            # Attributes cannot be listed there; the compiler looks at those that it used.
            return all(module.training == training for module, _, training, _ in self.modules)
        everywhere = torch.nn.modules.module
        return (
            all(module.training == training and _kept(module) == kept for module, _, training, kept in self.modules)
            and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in self.layers)
            and not (everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)
            and floating_dtype(self.modules[0][0]) == self.dtype
        )


def make_plan(
    module: nn.Module, input_shape: tuple[int, ...], training: bool = False, margins: Margins = "rows"
) -> Plan:
    """Trace ``module``, check every operation, and find the shapes by running two small batches of zeros.

    Args:
        module: from (B, *input_shape) to logits (B, m).
        input_shape: shape of one image.
        training: trace it in the mode in which it is, else as it is in evaluation.
        margins: ``"whole"`` for a plan without a head, whatever the graph ends in.

    Raises:
        UnknownLayerError: a layer or function has no Lipschitz rule.
        ArchitectureError: it cannot be traced, shapes do not fit, fewer than two logits, the head shares a
            parameter, hooks, something is read after it was overwritten.
    """
    check_integrity(module)
    if type(module) is nn.Sequential and not len(module):
        raise ArchitectureError("the module has no layers; give one that ends in logits (B, m)")
    if training:
        graph, root = trace(module)
    with evaluation_mode(module):
        if not training:
            graph, root = trace(module)
        modes = tuple((found, tuple(found._modules.values()), _kept(found)) for found in traced_through(module))
        # In inference mode tensors do not tell whether they were written over.
        with torch.inference_mode(False):
            x = torch.zeros(1, *input_shape, device=_device(module), dtype=floating_dtype(module))
            nodes, output = read(graph, root, x)
        check_overwriting(nodes, output)
        if not training:
            _refuse_chance(nodes)
        head = find_head(nodes, output) if margins == "rows" else None
        kinds = [None if not isinstance(node.transfer, Mapping) else node.transfer.rule() for node in nodes]
        target = output if head is None else nodes[head.node].inputs[0]
        composition = compose(nodes, mergeable(nodes, kinds), target)
    modules = tuple((found, children, found.training, kept) for found, children, kept in modes)
    return Plan(
        nodes,
        output,
        nodes[output].shape[0],
        head,
        program(nodes, output),
        composition,
        modules,
        tuple(module.modules()),
        floating_dtype(module),
    )


def traced_through(module: nn.Module) -> list[nn.Module]:
    """List ``module`` and the modules within that have no rule, so that their forward was traced."""
    found: list[nn.Module] = [module]
    for child in module._modules.values() if not has_rule(module) else ():
        if child is not None and not has_rule(child):
            found += traced_through(child)
    return found


def check_integrity(module: nn.Module, name: str = "") -> None:
    """Refuse modules that may compute something else than their type says.

    Raises:
        UnknownLayerError, ArchitectureError: name the module.
    """
    if has_rule(module):
        check_module(name, module)
        for inner, child in module.named_modules(remove_duplicate=False):
            if inner:  # A part of a layer, such as a parametrization.
                check_calls(f"{name}.{inner}" if name else inner, child)
        return
    check_calls(name, module)
    for key, child in module._modules.items():
        if child is not None:
            check_integrity(child, f"{name}.{key}" if name else key)


def _refuse_chance(nodes: Sequence[Node]) -> None:
    """Refuse dropout that is not switched off in evaluation."""
    for node in nodes:
        if isinstance(node.operation, Function) and node.operation.function is F.dropout and node.operation.after[1]:
            raise ArchitectureError(f"{node.name} drops at random in evaluation too; pass training=self.training")


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


def _kept(module: nn.Module) -> Kept:
    """List the numbers and names among the attributes of a module."""
    return tuple((key, value) for key, value in vars(module).items() if type(value) in _PLAIN and key != "training")


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
