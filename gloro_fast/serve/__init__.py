"""A net behind HTTP: images in, class and certified radius out. Needs extra ``serve``.

Stands on ``net``, ``pixels`` and ``files``; the command line calls it.
"""

from __future__ import annotations

from gloro_fast.serve.application import create_app, run_server
from gloro_fast.serve.settings import Settings

__all__ = ["Settings", "create_app", "run_server"]
