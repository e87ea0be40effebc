"""The compiled part of the package: loaded once, on import; everything else asks here whether it is there."""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from gloro_fast._version import __version__

_LIBRARY = Path(__file__).parents[1] / "libgloro_fast.so"
_SIMD_LEVELS = ("portable", "avx2", "avx512")
# What the package calls; an editable install may have an older library beside newer Python files.
_OPS = (
    "certify",
    "fingerprint",
    "head_differences",
    "margin",
    "margin_loss",
    "minmax",
    "minmax_",
    "power_iteration",
    "power_iteration_enough_multiprocessors",
)
_BUILD_AGAIN = "build it with `pip install --no-build-isolation .`"


def _import_build_info() -> ModuleType | None:
    """The module of build facts; it is missing where the build had no Python headers."""
    try:
        return importlib.import_module("gloro_fast._build_info")
    except ImportError:
        return None


def _load() -> str | None:
    """Load the library of ops into torch; None when that worked, else the reason in one line."""
    if os.environ.get("GLORO_FAST_NO_EXTENSION", "0") not in ("", "0"):
        return "GLORO_FAST_NO_EXTENSION is set"
    if not _LIBRARY.exists():
        return f"the extension is not built; {_BUILD_AGAIN} on a machine with a C++ compiler"
    built = getattr(_BUILD_INFO, "version", __version__)
    if built != __version__:
        return f"the extension was built for gloro_fast {built}, this is {__version__}; {_BUILD_AGAIN}"
    try:
        torch.ops.load_library(_LIBRARY)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{_LIBRARY.name} does not load into torch {torch.__version__} ({cause}); {_BUILD_AGAIN}"
    missing = [name for name in _OPS if not hasattr(torch.ops.gloro_fast, name)]
    if missing:
        return f"the extension is older than the package, without the op {missing[0]}; {_BUILD_AGAIN}"
    return None


def _check_simd_level() -> None:
    """Warn once of a level in the environment that the kernels do not know: they take it as unset."""
    asked = os.environ.get("GLORO_FAST_SIMD")
    if asked not in (None, "", *_SIMD_LEVELS):
        warnings.warn(
            f'GLORO_FAST_SIMD is "{asked}", which is ignored; use one of {", ".join(_SIMD_LEVELS)}',
            RuntimeWarning,
            stacklevel=2,
        )


_BUILD_INFO = _import_build_info()
_WHY_NOT = _load()
_check_simd_level()
_warned = False


def available() -> bool:
    """Return whether the compiled ops are loaded."""
    return _WHY_NOT is None


def why_not() -> str | None:
    """Why the compiled ops are not loaded, in one line; None when they are."""
    return _WHY_NOT


def has_kernel(op: str, device: str) -> bool:
    """Return whether an implementation of the op is registered for a device type, "cpu" or "cuda"."""
    if not hasattr(torch.ops.gloro_fast, op):
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"gloro_fast::{op}", device.upper())


def warn_if_missing() -> None:
    """Warn once per process that plain PyTorch stands in for the compiled ops; silent when they are loaded."""
    global _warned
    if _WHY_NOT is None or _warned or torch.compiler.is_compiling():
        return
    _warned = True
    warnings.warn(
        f"gloro_fast runs its ops as plain PyTorch, slower, with the same results: {_WHY_NOT}",
        RuntimeWarning,
        stacklevel=3,
    )


def processor_vendor() -> str:
    """Who made the processor, such as "GenuineIntel"; empty off x86, or where the build facts are missing."""
    return getattr(_BUILD_INFO, "processor_vendor", str)()


def facts() -> dict[str, Any]:
    """What was built and what this machine can run.

    Returns:
        ``available`` (bool), ``why_not`` (str or None), ``library`` (path of the ops library or None) and,
        where the module of build facts was built: ``version``, ``torch`` (built against), ``compiler``,
        ``nvcc`` (version or None), ``cuda_architectures`` (list such as ``["sm_80", ..., "compute_120"]``,
        empty without CUDA) and ``simd`` (the vector instructions that the CPU kernels use: avx512, avx2 or
        portable; ``GLORO_FAST_SIMD`` caps them).
    """
    known: dict[str, Any] = {
        "available": available(),
        "why_not": _WHY_NOT,
        "library": str(_LIBRARY) if _LIBRARY.exists() else None,
    }
    if _BUILD_INFO is not None:
        known |= {
            "version": _BUILD_INFO.version,
            "torch": _BUILD_INFO.torch,
            "compiler": _BUILD_INFO.compiler,
            "nvcc": _BUILD_INFO.nvcc or None,
            "cuda_architectures": _BUILD_INFO.cuda_architectures.split(),
            "simd": _BUILD_INFO.simd(),
        }
    return known
