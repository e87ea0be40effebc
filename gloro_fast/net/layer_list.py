"""A classifier that is a sequence of known layers, written as the layers' names and arguments, and built from them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast import nn as layers
from gloro_fast.errors import ConfigError

# What is not kept under the name of the argument.
_ARGUMENTS: dict[tuple[type[nn.Module], str], Any] = {
    (layers.Conv2d, "padding"): lambda layer: "same" if layer.same else layer.padding,
    (layers.ResidualConv2d, "channels"): lambda layer: layer.in_channels,
    (layers.ResidualConv2d, "kernel_size"): lambda layer: layer.kernel_size[0],
}
_PLACES = {"torch.nn": nn, "gloro_fast.nn": layers}
_HOW = "device", "dtype", "args", "kwargs"


def describe(module: nn.Module) -> list[dict[str, Any]] | None:
    """Write ``module`` as a list that JSON can hold and :func:`build` makes the same of.

    Returns:
        For each layer its ``"layer"``, such as ``"torch.nn.Linear"``, and its arguments by name; None unless the module
        is an ``nn.Sequential`` of unnamed layers of ``torch.nn`` and ``gloro_fast.nn`` that are made of numbers alone.
    """
    if type(module) is not nn.Sequential:
        return None
    try:
        found = [_described(layer) for layer in module]
        same = _traits(build(found, device="meta")) == _traits(module)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return found if same else None


def build(description: object, device: str = "cpu") -> nn.Sequential:
    """Build the module that :func:`describe` wrote, its weights as the layers initialize them.

    Args:
        description: what ``describe`` gave, perhaps by way of a file that somebody else wrote.
        device: where to; ``"meta"`` allocates nothing.

    Raises:
        ConfigError: a layer or an argument that is not known, or of a value that cannot be.
    """
    if not isinstance(description, list):
        raise ConfigError(f"the architecture is {description!r:.80}; it must be a list of layers")
    with torch.random.fork_rng(devices=[]):
        return nn.Sequential(*(_built(entry, device) for entry in description))


def _described(layer: nn.Module) -> dict[str, Any]:
    kind = type(layer)
    (place,) = (place for place, names in _PLACES.items() if getattr(names, kind.__name__, None) is kind)
    found: dict[str, Any] = {"layer": f"{place}.{kind.__name__}"}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in _HOW:
            read = _ARGUMENTS.get((kind, name))
            value = _plain(read(layer) if read else getattr(layer, name), name)
            # An older torch may not know an argument that is left at its default.
            if value != parameter.default or type(value) is not type(parameter.default):
                found[name] = value
    return found


def _plain(value: Any, name: str) -> Any:
    if name == "bias":
        return value is not None and value is not False
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(name)


def _built(entry: object, device: str) -> nn.Module:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"the architecture has {entry!r:.80} for a layer; give its name and arguments")
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    place, _, name = str(arguments.pop("layer", "")).rpartition(".")
    kind = getattr(_PLACES.get(place), name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigError(f"there is no layer {place}.{name}; load the net with module=, a net of the same layers")
    # It looks at its numbers, and is as large as their list.
    device = "cpu" if kind is layers.Normalize else device
    try:
        with torch.device(device):
            return kind(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{place}.{name} cannot be made of {arguments!r:.200} ({reason})") from None


def _traits(module: nn.Module) -> tuple[Any, ...]:
    """Return what two modules that compute the same have in common, but for the values of their tensors."""
    return (
        [type(child) for child in module.modules()],
        repr(module),
        [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()],
        [name for name, _ in module.named_parameters()],
        [(name, tuple(buffer.shape)) for name, buffer in module.named_buffers()],
    )
