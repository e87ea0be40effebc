"""Certified-robust training for PyTorch: GloRo Nets (Leino, Wang, Fredrikson, ICML 2021)."""

import importlib
from typing import TYPE_CHECKING

from gloro_fast._version import __version__

if TYPE_CHECKING:
    from gloro_fast import bounds, losses, nn, ops
    from gloro_fast.models import architectures, keras_weights
    from gloro_fast.models.conversion import convert, revert
    from gloro_fast.net.certificate import Certificate
    from gloro_fast.net.gloro_net import GloRoNet
    from gloro_fast.recipes import schedules

__all__ = [
    "Certificate",
    "GloRoNet",
    "__version__",
    "architectures",
    "bounds",
    "convert",
    "keras_weights",
    "losses",
    "nn",
    "ops",
    "revert",
    "schedules",
]

# What is asked for is loaded when it is asked for: torch takes a second and a half, which --help can do without.
_MODULES = {
    "architectures": "models.architectures",
    "keras_weights": "models.keras_weights",
    "schedules": "recipes.schedules",
}
_HOMES = {
    "Certificate": "net.certificate",
    "GloRoNet": "net.gloro_net",
    "convert": "models.conversion",
    "revert": "models.conversion",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gloro_fast' has no attribute {name!r}")
    if name in _HOMES:
        found = getattr(importlib.import_module(f"gloro_fast.{_HOMES[name]}"), name)
    else:
        found = importlib.import_module(f"gloro_fast.{_MODULES.get(name, name)}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
