"""What a GloRo net executes, and what is known of it: it runs the graph that it bounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.agreement import check_agreement, kept, run_once
from gloro_fast.graph.aliasing import check_overwriting
from gloro_fast.graph.composition import Composition, compose
from gloro_fast.graph.execution import Program, program
from gloro_fast.graph.head import Head, find_head
from gloro_fast.graph.merging import Merged, mergeable
from gloro_fast.graph.node import Joining, Layer, Mapping, Node, unregistered
from gloro_fast.graph.reading import capture_known, read
from gloro_fast.graph.reads import Reads
from gloro_fast.graph.undisturbed import undisturbed
from gloro_fast.ops.strict import FLOAT32, WEIGHTS
from gloro_fast.rules.integrity import check_calls, check_module
from gloro_fast.rules.registry import Knowledge, LinearMap, has_rule

Margins = Literal["rows", "whole"]


@dataclass(frozen=True)
class Plan:
    """A graph, how it is executed, and how its constant is composed.

    Attributes:
        module: what was captured.
        nodes: the operations in order of execution, the input of the network first.
        output: the node of the logits.
        num_classes: m, the logits.
        head: the last dense layer, so that margins use its rows; None if the graph ends otherwise.
        program: what executes the nodes.
        strict: what executes them on a GPU in evaluation, without TF32.
        composition: the constant of everything before the head, or of all without one.
        reads: what the forward may have read besides tensors, since it may be part of the graph.
        modes: every module with whether it was in training.
        device: where the parameters were.
        dtype: the floating dtype of the parameters.
    """

    module: nn.Module
    nodes: tuple[Node, ...]
    output: int
    num_classes: int
    head: Head | None
    program: Program
    strict: Program
    composition: Composition
    reads: Reads
    modes: tuple[tuple[nn.Module, bool], ...]
    device: torch.device
    dtype: torch.dtype

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

    def evaluate(self, x: Tensor) -> Tensor:
        """Execute the graph on a batch in the arithmetic of its own type, on a GPU without TF32.

        Raises:
            ArchitectureError: on a GPU, a layer computes something that may use TF32; names it.
        """
        return self.strict(x) if x.device.type in FLOAT32.devices else self.run(x)

    def linear_maps(self) -> list[LinearMap]:
        """Return the linear maps that the constant is composed of with their present weights, in order."""
        return [rule for part in self.parts if isinstance(rule := part.rule(), LinearMap)]

    def rules(self) -> list[tuple[str, Knowledge]]:
        """List what the rule of every layer and function says now."""
        return [
            (node.name, node.transfer.rule())
            for node in self.nodes
            if node.transfer is not None and not isinstance(node.transfer, Joining)
        ]

    def unregistered(self) -> list[tuple[str, Tensor]]:
        """List the tensors that the graph reads and that are neither parameters nor buffers."""
        return unregistered(self.nodes)

    def fits_modes(self) -> bool:
        """Return whether all modules are in the modes in which they were."""
        return all(child.training == training for child, training in self.modes)

    def evaluates(self) -> bool:
        """Return whether all modules are in evaluation already; never in a graph, which asks the modules themselves."""
        return not torch.compiler.is_compiling() and not any(child.training for child, _ in self.modes)

    def fits_modules(self, module: nn.Module) -> bool:
        """Return whether ``module`` consists of the same modules, in the modes in which they were."""
        now = list(module.modules())
        return len(now) == len(self.modes) and all(
            mine is its and its.training == training for (mine, training), its in zip(self.modes, now, strict=True)
        )

    def fits(self, module: nn.Module) -> bool:
        """Return whether ``module`` is what it was: the same modules, the same objects wherever its forward may read.

        Tensors count as the same, whatever their values; the mode is left out. Asked at every training step.
        """
        return (
            module is self.module
            and self.reads.hold()
            and device_of(module) == self.device
            and floating_dtype(module) == self.dtype
        )

    def in_training(self, module: nn.Module) -> Plan | None:
        """Return the plan of the module as it is in training, if it is this one: where no code asks for the mode."""
        if self.reads.mode or not self.fits(module):
            return None
        return dataclasses.replace(self, modes=_modes(module))


def make_plan(
    module: nn.Module, input_shape: tuple[int, ...], training: bool = False, margins: Margins = "rows"
) -> Plan:
    """Capture ``module`` and check every operation.

    Args:
        module: from (B, *input_shape) to logits (B, m).
        input_shape: shape of one image.
        training: capture it in the mode in which it is, else as it is in evaluation.
        margins: ``"whole"`` for a plan without a head, whatever the graph ends in.

    Raises:
        UnknownLayerError: a layer or function has no Lipschitz rule.
        ArchitectureError: it cannot be captured, shapes do not fit, fewer than two logits, the head shares a
            parameter, hooks, something is read after it was overwritten.
    """
    check_integrity(module)
    if type(module) is nn.Sequential and not len(module):
        raise ArchitectureError("the module has no layers; give one that ends in logits (B, m)")
    # In inference mode tensors do not tell whether they were written over.
    with torch.inference_mode(False):
        image = torch.zeros(1, *input_shape, device=device_of(module), dtype=floating_dtype(module))
    if not image.is_meta:
        run_once(module, image)
    if training:
        captured = capture_known(module, image)
    reads = Reads.of(module)
    # Rules read weights, which a parametrization may change a buffer for.
    with evaluation_mode(module), kept(list(module.named_buffers())):
        if not training:
            _refuse_training(module)
            captured = capture_known(module, image)
        nodes, output = read(module, captured, training)
        check_overwriting(nodes, output)
        if not image.is_meta and not training:
            check_agreement(module, nodes, output, program(nodes, output, fuse=False), image, training)
        whole, output = output, _without_log_softmax(nodes, output)
        head = find_head(nodes, output) if margins == "rows" else None
        kinds = [None if not isinstance(node.transfer, Mapping) else node.transfer.rule() for node in nodes]
        target = output if head is None else next(i for i in nodes[head.node].inputs if not nodes[i].is_constant)
        composition = compose(nodes, mergeable(nodes, kinds), target)
        strict = program(nodes, output, strict=True)
        if image.device.type in FLOAT32.devices and not training:
            # A compiled graph cannot watch what it computes.
            with undisturbed(image.device), torch.no_grad():
                strict(image)
    if not image.is_meta and training:
        check_agreement(module, nodes, whole, program(nodes, whole, fuse=False), image, training)
    return Plan(
        module,
        nodes,
        output,
        nodes[output].shape[0],
        head,
        program(nodes, output),
        strict,
        composition,
        reads,
        _modes(module),
        device_of(module),
        floating_dtype(module),
    )


def _modes(module: nn.Module) -> tuple[tuple[nn.Module, bool], ...]:
    return tuple((child, child.training) for child in module.modules())


def _refuse_training(module: nn.Module) -> None:
    """Refuse a module that eval() leaves in training: what it does with an image then depends on the others."""
    for name, child in module.named_modules():
        if child.training:
            raise ArchitectureError(
                f"{name or 'the module'} ({type(child).__name__}) is in training mode after eval(); let eval() reach "
                "every module, and certify what runs in evaluation"
            )


def _without_log_softmax(nodes: tuple[Node, ...], output: int) -> int:
    """Leave out a LogSoftmax at the end: it takes the same number from all logits of an image."""
    transfer = nodes[output].transfer
    if not (isinstance(transfer, Layer) and isinstance(transfer.module, nn.LogSoftmax)):
        return output
    return nodes[output].inputs[0]


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


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into evaluation mode for a while, then every submodule back into the mode it was in.

    ``train()`` and ``eval()`` are called, not the flag set: a layer may do more there.
    """
    modes = _modes(module)
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


@contextmanager
def as_evaluated(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Compute as certificates are computed: evaluation mode, no autocast, no gradients, no TF32."""
    strict = WEIGHTS if device.type in WEIGHTS.devices else nullcontext()
    with undisturbed(device), evaluation_mode(module), torch.no_grad(), strict:
        yield


def floating_dtype(module: nn.Module) -> torch.dtype:
    """Return the floating dtype of the module's parameters; torch's default if it has none."""
    found = _first(module, Tensor.is_floating_point)
    return torch.get_default_dtype() if found is None else found.dtype


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the module's parameters; the CPU if it has none."""
    found = _first(module, lambda parameter: True)
    return torch.device("cpu") if found is None else found.device


def _first(module: nn.Module, wanted: Callable[[Tensor], bool]) -> Tensor | None:
    """Find the first parameter in the order of ``module.parameters()``, whose generators take 6 times as long."""
    for parameter in module._parameters.values():
        if parameter is not None and wanted(parameter):
            return parameter
    for child in module._modules.values():
        if child is not None and (found := _first(child, wanted)) is not None:
            return found
    return None
