"""What a captured step holds as it was: where its tensors lie, and what Python told its operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.optim import optimizer as every_optimizer

from gloro_fast.losses import is_registered
from gloro_fast.net.gloro_net import Criterion, GloRoNet

# Rates are tensors that are filled; schedulers keep their own numbers in a group.
_NOT_IN_A_STEP = ("params", "lr", "initial_lr", "max_lr", "min_lr", "swa_lr", "param_names")
_PLAIN = (bool, int, float, str, type(None))


def setting(
    net: GloRoNet, optimizer: torch.optim.Optimizer, criterion: Criterion, keeps_gradients: bool = False
) -> dict[str, object] | None:
    """List what a captured step holds as it was, by names for messages: equal ones can be replayed alike.

    Args:
        net: the net.
        optimizer: the optimizer.
        criterion: the criterion.
        keeps_gradients: whether a step adds to the gradients of the one before.

    Returns:
        It; None where Python is to be called in the middle of a step, by hooks or to look for anomalies, which no graph
        does.
    """
    modules = [*net.modules(), *(criterion.modules() if isinstance(criterion, nn.Module) else ())]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = set(map(id, trained))
    registered = [
        tensor
        for module in modules
        for held in (module._parameters, module._buffers)
        for tensor in held.values()
        if tensor is not None
    ]
    tensors = [*trained, *(tensor for tensor in registered if id(tensor) not in own)]
    if has_hooks(net) or _calls_python(optimizer, criterion, modules, tensors):
        return None
    cudnn: Any = torch.backends.cudnn
    grads = [
        (id(t) not in own or keeps_gradients) and t.grad is not None and t.grad.data_ptr() for t in tensors if t.is_leaf
    ]
    device = tensors[0].device.type
    return {
        "parameters": [(id(tensor), tensor.data_ptr(), tensor.requires_grad) for tensor in tensors],
        "gradients": grads,
        "the optimizer's state": [id(optimizer), *map(_of_state, optimizer.state.items())],
        **_of_groups(optimizer),
        "the criterion": [
            id(criterion),
            *([_plain(value) for value in vars(criterion).values()] if is_registered(criterion) else ()),
        ],
        "modes": [module.training for module in modules],
        "power_iterations": net.power_iterations,
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        # By their new names: the old ones raise where somebody has set the new.
        "precision": (torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision),
    }


def has_hooks(net: GloRoNet) -> bool:
    """Return whether calling the net calls something else: ``GloRoNet.forward`` by itself would leave it out."""
    everywhere = every_module._global_forward_hooks or every_module._global_forward_pre_hooks
    return bool(everywhere or net._forward_hooks or net._forward_pre_hooks) or any(
        module._backward_hooks or module._backward_pre_hooks for module in net.modules()
    )


def _calls_python(
    optimizer: torch.optim.Optimizer, criterion: Criterion, modules: list[nn.Module], tensors: list[Tensor]
) -> bool:
    return bool(
        torch.is_anomaly_enabled()
        or every_module._global_backward_hooks
        or every_module._global_backward_pre_hooks
        or every_optimizer._global_optimizer_pre_hooks
        or every_optimizer._global_optimizer_post_hooks
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or (isinstance(criterion, nn.Module) and (criterion._forward_hooks or criterion._forward_pre_hooks))
        or any(module._backward_hooks or module._backward_pre_hooks for module in modules)
        or any(t._backward_hooks or getattr(t, "_post_accumulate_grad_hooks", None) for t in tensors)
    )


def _of_state(item: tuple[Any, Any]) -> object:
    """Tell where the state of a parameter lies, and the values of what Python keeps of it."""
    key, state = item
    if not isinstance(state, dict):
        return id(key), _plain(state)
    device = key.device if isinstance(key, Tensor) else None
    return id(key), *(
        # A graph of a GPU leaves a count on the CPU as it is, so that it must not change.
        (value.data_ptr() if value.device == device else value._version) if isinstance(value, Tensor) else _plain(value)
        for value in state.values()
    )


def _of_groups(optimizer: torch.optim.Optimizer) -> dict[str, object]:
    return {
        f"the optimizer's {name} (group {index})": tuple(map(_plain, value))
        if isinstance(value, list | tuple)
        else _plain(value)
        for index, group in enumerate(optimizer.param_groups)
        for name, value in group.items()
        if name not in _NOT_IN_A_STEP
    }


def _plain(value: object) -> object:
    return value if isinstance(value, _PLAIN) else _Itself(value)


class _Itself:
    """Equal where it is of the very same object, which it keeps, so that no other one takes its place in memory."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other._value is self._value

    __hash__ = None  # type: ignore[assignment]
