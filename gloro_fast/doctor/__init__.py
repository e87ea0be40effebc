"""Checks of every kernel against the float64 reference on the device that it will run on.

A check is a file here that registers itself with :func:`gloro_fast.doctor.examination.check`. Stands on ``ops`` and
``native``, where it switches off what is wrong; the command line runs it, and reports say what it found.
"""

import importlib
import pkgutil

from gloro_fast.doctor.examination import Finding, examine

__all__ = ["Finding", "examine"]

for _module in pkgutil.iter_modules(__path__):
    if _module.name.endswith("_check"):
        importlib.import_module(f"{__name__}.{_module.name}")
