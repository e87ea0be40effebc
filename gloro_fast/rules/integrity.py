"""Refusing modules that may compute something else than their type says, unseen by the rule of that type."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.rules.registry import Diagonal, Knowledge, LinearMap, has_rule, known_type, unknown


def check_module(name: str, module: nn.Module) -> None:
    """Refuse a layer that is unknown or whose values something else may change.

    Raises:
        UnknownLayerError: there is no rule for its type.
        ArchitectureError: a method was replaced on the instance, in its parametrized class, or in PyTorch.
    """
    if not has_rule(module):
        raise unknown(name, module)
    check_calls(name, module)
    if parametrize.is_parametrized(module) and _methods(type(module)):
        raise unknown(name, module)
    forward = known_type(module).forward
    if known_type(module).__module__.startswith("torch.") and not forward.__module__.startswith("torch."):
        raise ArchitectureError(
            f"{name or 'the module'} is a {known_type(module).__name__}, whose forward was replaced by "
            f"{forward.__module__}.{forward.__qualname__} for all of them; put torch's back"
        )


def check_calls(name: str, module: nn.Module) -> None:
    """Refuse a module whose call does not simply run the ``forward`` of its class.

    Raises:
        ArchitectureError: a method was replaced on the instance, it is compiled, or its weights are still to be made
            or computed in a hook.
        ConfigError: it is no module.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{name or 'the module'} is {module!r:.40}; give an nn.Module from images to logits")
    call = nn.Module.__call__
    if not calls_are_torchs():
        raise ArchitectureError(
            f"nn.Module.__call__ was replaced by {call.__module__}.{call.__qualname__}, which may change the values of "
            "every layer; put torch's back"
        )
    kind: type = type(module)
    where = f"{name or 'the module'} ({kind.__name__})"
    if isinstance(module, torch.jit.ScriptModule):
        raise ArchitectureError(f"{where} is a compiled script; pass the module as it was before torch.jit")
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise ArchitectureError(f"{where} has no weights yet; run one batch through the model first")
    # By name: importing the compiler takes seconds.
    compiled = (kind.__module__, kind.__qualname__) == ("torch._dynamo.eval_frame", "OptimizedModule")
    if compiled or module._compiled_call_impl is not None:
        raise ArchitectureError(f"{where} is compiled; pass the module as it was before, and compile the GloRoNet")
    # By name: importing torch.distributed.tensor takes time, and nobody has one who has not.
    if any(type(parameter).__name__ == "DTensor" for parameter in module._parameters.values()):
        raise ArchitectureError(
            f"{where} holds but its process's shard of the weights (DTensor); give fully_shard the GloRoNet as a "
            "whole, no part of it, and call unshard() on it before all but its forward pass"
        )
    replaced = sorted(vars(module).keys() & _callables(kind))
    if replaced:
        raise ArchitectureError(f"{where} has its own {replaced[0]}(), which may change values unseen; remove it")
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    for hook in hooks:
        if isinstance(hook, BasePruningMethod):
            tensor = hook._tensor_name
            raise ArchitectureError(
                f"{where} computes its {tensor} in a hook that prunes it; make that permanent with "
                f"torch.nn.utils.prune.remove(module, {tensor!r})"
            )
    loose = module._forward_pre_hooks and any(isinstance(value, Tensor) for value in vars(module).values())
    if loose or any(type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks):
        raise ArchitectureError(
            f"{where} computes its weight in a hook; use the function of that name in torch.nn.utils.parametrizations"
        )


def calls_are_torchs() -> bool:
    """Return whether a call of a module is PyTorch's, or for the time being a tracer's: its own, or a capture's."""
    call = nn.Module.__call__
    return call.__module__.startswith("torch.") or getattr(call, "captures", False)


def check_weight(name: str, rule: Knowledge) -> None:
    """Refuse a weight of a tensor subclass, which may compute anything when it is used.

    Raises:
        ArchitectureError: names the layer and the subclass.
    """
    tensor = rule.weight if isinstance(rule, LinearMap) else rule.scale if isinstance(rule, Diagonal) else None
    if tensor is not None and type(tensor) not in (Tensor, nn.Parameter):
        raise ArchitectureError(
            f"the weight of {name or 'the module'} is a {type(tensor).__name__}; use a plain tensor"
        )


@cache
def _callables(kind: type) -> frozenset[str]:
    """List what can be called on a class; asked of every module at every certificate, so that looking is too slow."""
    return frozenset(key for key in dir(kind) if callable(getattr(kind, key, None)))


def _methods(kind: type) -> list[str]:
    """List what a class of torch's parametrization may not bring along: methods of its own."""
    return [key for key, value in vars(kind).items() if callable(value) and not key.startswith("__")]
