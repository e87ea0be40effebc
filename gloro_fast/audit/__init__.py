"""Checking a certificate file without the code that made it.

Layers become matrices, bounds are proven by factorisations, and margins are compared in rational numbers. Stands on
``files``, ``data`` and ``attributes``, and imports nothing of what it audits; the command line calls it.
"""

from __future__ import annotations

from gloro_fast.audit.checking import audit, stated
from gloro_fast.audit.samples import RealRadii

__all__ = ["RealRadii", "audit", "stated"]
