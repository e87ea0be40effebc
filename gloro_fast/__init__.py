"""Certified-robust training for PyTorch: GloRo Nets (Leino, Wang, Fredrikson, ICML 2021)."""

import importlib
from typing import TYPE_CHECKING

from gloro_fast._version import __version__

if TYPE_CHECKING:
    from gloro_fast import architectures, bounds, losses, nn, ops, schedules
    from gloro_fast.certify import Certificate
    from gloro_fast.convert import convert, revert
    from gloro_fast.model import GloRoNet

__all__ = [
    "Certificate",
    "GloRoNet",
    "__version__",
    "architectures",
    "bounds",
    "convert",
    "losses",
    "nn",
    "ops",
    "revert",
    "schedules",
]

# What is asked for is loaded when it is asked for: torch takes a second and a half, which --help can do without.
_HOMES = {"Certificate": "certify", "GloRoNet": "model", "convert": "convert", "revert": "convert"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gloro_fast' has no attribute {name!r}")
    module = importlib.import_module(f"gloro_fast.{_HOMES.get(name, name)}")
    # A module of the same name has taken its place by now.
    globals().update({own: getattr(module, own) for own, home in _HOMES.items() if home == _HOMES.get(name)})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
