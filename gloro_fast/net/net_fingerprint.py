"""A fingerprint of a network: the bits of all its parameters and buffers, its structure, and what its rules say.

A frozen Lipschitz bound holds for one set of weights. Version counters do not show every change of them (fused
optimizers, ``.data``, NumPy views and ``vector_to_parameters`` leave them alone), so the bits themselves are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast import ops
from gloro_fast.files.attributes import shown_attributes, shown_settings
from gloro_fast.ops.geometry import Geometry
from gloro_fast.rules.registry import Diagonal, Knowledge, LinearMap, LipschitzConstant, has_rule


@dataclass(frozen=True)
class Fingerprint:
    """What two networks share exactly when they have the same structure and the same weights, bit by bit.

    Attributes:
        structure: name, type and settings of every module.
        rules: name and geometry, shape of the scale, or constant of every layer, as its rule gives them: they may
            depend on more than parameters, buffers and printed settings.
        tensors: name, shape, dtype and 64-bit hash of every parameter and buffer, and of every effective weight
            that is neither.
    """

    structure: tuple[tuple[str, str, str], ...]
    rules: tuple[tuple[str, Geometry | tuple[int, ...] | LipschitzConstant], ...]
    tensors: tuple[tuple[str, tuple[int, ...], torch.dtype, int], ...]

    def difference(self, other: Fingerprint) -> str:
        """Name the first thing in which ``other`` differs."""
        for mine, its in zip(self.structure, other.structure, strict=False):
            if mine != its:
                return f"module {its[0] or '(top)'} is now {its[1]}({its[2]})"
        for my_rule, its_rule in zip(self.rules, other.rules, strict=False):
            if my_rule != its_rule:
                return f"the rule of {its_rule[0] or 'the module'} now gives {its_rule[1]}"
        for mine_tensor, its_tensor in zip(self.tensors, other.tensors, strict=False):
            if mine_tensor != its_tensor:
                return f"{its_tensor[0]} has changed"
        return "modules, parameters or buffers were added or removed"


def fingerprint(
    module: nn.Module,
    rules: Sequence[tuple[str, Knowledge]] = (),
    tensors: Sequence[tuple[str, Tensor]] = (),
) -> Fingerprint:
    """Take the fingerprint of ``module`` on its device, with one wait for that device.

    Moving the module to another device, or to another memory format, changes nothing. Any single changed element
    changes the hash of its tensor; several changed together do so but for one chance in 2^64.

    Args:
        module: the network.
        rules: name of every layer and what its rule says of its present weights.
        tensors: others that it computes with, by name.
    """
    named = watched(module, rules, tensors)
    values = _hashes([tensor for _, tensor in named])
    return Fingerprint(
        _structure(module),
        tuple((name, _settings(rule)) for name, rule in rules),
        tuple(
            (name, tuple(tensor.shape), tensor.dtype, value)
            for (name, tensor), value in zip(named, values, strict=True)
        ),
    )


def structural_difference(signed: Fingerprint, module: nn.Module, rules: Sequence[tuple[str, Knowledge]]) -> str:
    """Name the first thing in which ``module`` differs from what was signed, without reading a tensor.

    Args:
        signed: the fingerprint.
        module: the network as it is.
        rules: name of every layer and what its rule says. A constant that is a tensor is compared but for its value.

    Returns:
        What differs; empty if nothing does.
    """
    known = tuple(
        (name, mine if isinstance(mine, LipschitzConstant) and _differs_in_value_at_most(mine, its) else _settings(its))
        for (_, mine), (name, its) in zip(signed.rules, rules, strict=False)
    )
    now = Fingerprint(_structure(module), known, signed.tensors)
    return "" if now == signed and len(rules) == len(signed.rules) else signed.difference(now)


def constants_are_signed(signed: Fingerprint, rules: Sequence[tuple[str, Knowledge]]) -> list[Tensor]:
    """Compare the constants that are tensors with the signed ones inside a graph: a scalar bool tensor each."""
    return [
        (its.factor.detach().double() == mine.value).all()
        for (_, mine), (_, its) in zip(signed.rules, rules, strict=False)
        if isinstance(mine, LipschitzConstant) and isinstance(its, LipschitzConstant) and isinstance(its.factor, Tensor)
    ]


def watched(
    module: nn.Module, rules: Sequence[tuple[str, Knowledge]], tensors: Sequence[tuple[str, Tensor]]
) -> list[tuple[str, Tensor]]:
    """List every tensor that a fingerprint hashes, with its name: arguments as for :func:`fingerprint`."""
    named = registered(module)
    known = {id(tensor) for _, tensor in named}
    # torch.compile does not trace an assignment within a comprehension.
    for name, rule in rules:
        tensor = _tensor(rule)
        if tensor is not None and id(tensor) not in known:
            named.append((f"the effective weight of {name}", tensor))
    return [*named, *tensors]


def registered(module: nn.Module) -> list[tuple[str, Tensor]]:
    """List every parameter and buffer with its name: the first of what is watched."""
    # Duplicates stay: which layers share a parameter is part of what the network is.
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _tensor(rule: Knowledge) -> Tensor | None:
    if isinstance(rule, LinearMap):
        return rule.weight
    return rule.scale if isinstance(rule, Diagonal) else None


def _differs_in_value_at_most(mine: LipschitzConstant, its: Knowledge) -> bool:
    return (
        isinstance(its, LipschitzConstant)
        and isinstance(its.factor, Tensor)
        and (mine.kind, mine.per_element) == (its.kind, its.per_element)
    )


def _settings(rule: Knowledge) -> Geometry | tuple[int, ...] | LipschitzConstant:
    if isinstance(rule, LinearMap):
        return rule.geometry
    return tuple(rule.scale.shape) if isinstance(rule, Diagonal) else rule


def structure(module: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """List name, type, settings and attributes of every module; the device is no part of it."""
    return tuple(
        (name, kind, settings + _attributes(module.get_submodule(name))) for name, kind, settings in _structure(module)
    )


def _structure(module: nn.Module) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (name, f"{type(child).__module__}.{type(child).__qualname__}", shown_settings(child))
        for name, child in module.named_modules(remove_duplicate=False)
    )


def _attributes(module: nn.Module) -> str:
    """Show what a module keeps where its forward is traced; a layer with a rule is known by what the rule says."""
    return "" if has_rule(module) else shown_attributes(module)


def _hashes(tensors: list[Tensor]) -> list[int]:
    """Hash every tensor, in one call a device."""
    values = [0] * len(tensors)
    for device in {tensor.device for tensor in tensors}:
        places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        for place, value in zip(places, ops.fingerprint([tensors[p] for p in places]).tolist(), strict=True):
            values[place] = value
    return values
