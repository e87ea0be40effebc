"""Certificates for the program that runs: the rounding of a net's own forward pass, bounded layer by layer."""

from __future__ import annotations

from gloro_fast.executed.network import ExecutedNet
from gloro_fast.executed.settings import sums_of_products

__all__ = ["ExecutedNet", "sums_of_products"]
