"""The packages that write, read and run ONNX files, if they are there."""

from __future__ import annotations

import importlib
from typing import Any

from gloro_fast.errors import ConfigError


def imported(package: str) -> Any:
    """Import a package that ONNX files need.

    Raises:
        ConfigError: it is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"ONNX files need {package}, which cannot be imported ({error}); install it with: "
            "pip install 'gloro-fast[onnx]'"
        ) from None
