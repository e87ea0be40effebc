"""Certificates for the program that runs: the rounding of a net's own forward pass, bounded layer by layer.

Stands on ``graph`` and ``bounds``; ``net`` asks it for executed certificates.
"""

from __future__ import annotations

from gloro_fast.rounding_error.network import ExecutedNet, Reach
from gloro_fast.rounding_error.settings import sums_of_products

__all__ = ["ExecutedNet", "Reach", "sums_of_products"]
