"""Checks of every kernel against the float64 reference on the device that it will run on.

A check is a file here that registers itself with :func:`gloro_fast.doctor.examination.check`.
"""

from gloro_fast.doctor import (
    fingerprint,
    head_differences,
    image_codes,
    margin,
    margin_loss,
    minmax,
    power_iteration,
    product,
    statistics,
    verdict,
)
from gloro_fast.doctor.examination import Finding, examine

__all__ = [
    "Finding",
    "examine",
    "fingerprint",
    "head_differences",
    "image_codes",
    "margin",
    "margin_loss",
    "minmax",
    "power_iteration",
    "product",
    "statistics",
    "verdict",
]
