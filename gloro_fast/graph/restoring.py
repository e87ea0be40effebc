"""Leaving a module as it was: what its ``forward`` keeps while it is traced is no value of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from gloro_fast.errors import ArchitectureError
from gloro_fast.rules.registry import has_rule

_REGISTERED = ("_parameters", "_buffers", "_modules")


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Restore all attributes within ``module``, and what lists and dicts held, when the block ends.

    Raises:
        ArchitectureError: a parameter, buffer or layer was set meanwhile, so that nothing would train or watch it.
    """
    named = list(module.named_modules())
    held: dict[int, tuple[Any, Any]] = {}
    for _, child in named:
        _hold(vars(child), held)
    try:
        yield
        for name, child in _followed(module):
            for kind in _REGISTERED:
                present = vars(child).get(kind, {})
                changed = _changed(present, held[id(present)][1] if id(present) in held else {})
                if changed:
                    raise ArchitectureError(
                        f"{name or 'the module'} ({type(child).__name__}) sets {changed[0]}, which is or was a layer, "
                        "parameter or buffer, in its forward; set it in __init__"
                    )
    finally:
        for container, before in held.values():
            _put_back(container, before)


def _followed(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """List the modules whose forward is followed: layers that are called as they are may keep what they like."""
    if has_rule(module) or isinstance(module, parametrize.ParametrizationList):
        return
    yield name, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _followed(child, f"{name}.{key}" if name else key)


def _hold(container: Any, held: dict[int, tuple[Any, Any]]) -> None:
    """Remember what is in a container, and in the containers in it."""
    if id(container) in held:
        return
    # The container too, so that its id stays its own.
    held[id(container)] = (container, dict(container) if isinstance(container, dict) else list(container))
    for value in container.values() if isinstance(container, dict) else container:
        if isinstance(value, dict | list | set | deque):
            _hold(value, held)


def _put_back(container: Any, before: Any) -> None:
    if isinstance(container, dict):
        # Key by key: another thread may be looking at the others.
        for key in _changed(container, before):
            if key in before:
                container[key] = before[key]
            else:
                del container[key]
    elif len(container) != len(before) or any(mine is not its for mine, its in zip(container, before, strict=True)):
        container.clear()
        (container.update if isinstance(container, set) else container.extend)(before)


def _changed(present: dict[Any, Any], before: dict[Any, Any]) -> list[Any]:
    """List the keys that have come, gone, or got another value."""
    missing = object()
    return [key for key in {**before, **present} if present.get(key, missing) is not before.get(key, missing)]
