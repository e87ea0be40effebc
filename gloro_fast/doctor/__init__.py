"""Checks of every kernel against the float64 reference on the device that it will run on.

A check is a file here that registers itself with :func:`gloro_fast.doctor.examination.check`. Stands on ``ops`` and
``native``, where it switches off what is wrong; the command line runs it, and reports say what it found.
"""

from gloro_fast.doctor import (
    fingerprint_check,
    head_differences_check,
    image_codes_check,
    margin_check,
    margin_loss_check,
    minmax_check,
    power_iteration_check,
    product_check,
    statistics_check,
    verdict_check,
)
from gloro_fast.doctor.examination import Finding, examine

__all__ = [
    "Finding",
    "examine",
    "fingerprint_check",
    "head_differences_check",
    "image_codes_check",
    "margin_check",
    "margin_loss_check",
    "minmax_check",
    "power_iteration_check",
    "product_check",
    "statistics_check",
    "verdict_check",
]
