"""Certified-robust training for PyTorch: GloRo Nets (Leino, Wang, Fredrikson, ICML 2021)."""

from gloro_fast import bounds, losses, nn, ops
from gloro_fast._version import __version__
from gloro_fast.models import architectures
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
    "losses",
    "nn",
    "ops",
    "revert",
    "schedules",
]
