"""Schedules of epsilon, of the weight lambda of a loss and of the learning rate (Leino et al. 2021, Appendix B).

A schedule is a plain function of the epoch index ``t`` = 0, 1, ..., ``epochs - 1``; its value holds for the
whole epoch. Warm-up epochs come before epoch 0 and are not counted in ``epochs``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gloro_fast.errors import ConfigError

Schedule = Callable[[int], float]
"""The value for an epoch, counted from 0."""


def constant(value: float) -> Schedule:
    """Return ``value`` in every epoch."""
    return lambda t: value


def linear(start: float, end: float, duration: float) -> Schedule:
    """Go from ``start`` to ``end`` in ``duration`` epochs, then stay: the paper's ``x,y,e``."""
    if not duration > 0:
        raise ConfigError(f"schedule duration is {duration:g} epochs; it must be greater than 0")
    return lambda t: start + (end - start) * (t / duration) if t < duration else end


def logarithmic(value: float, epochs: int) -> Schedule:
    """Grow like a logarithm from 1 % of ``value`` to all of it at half the epochs, then stay.

    ``value * ln((e^1 - e^0.01) * t / (T // 2) + e^0.01)`` for ``t < T // 2`` with ``T = epochs``.
    """
    half = epochs // 2
    low, high = math.exp(0.01), math.exp(1.0)
    return lambda t: value * math.log((high - low) * t / half + low) if t < half else value


def exponential_after_half(start: float, end: float, epochs: int) -> Schedule:
    """Stay at ``start`` for the first half of the epochs, then decay exponentially towards ``end``.

    ``start * (end / start) ** ((t - T // 2) / (T - T // 2))`` for ``t >= T // 2`` with ``T = epochs``; the
    bound ``end`` would be reached at ``t = T``.
    """
    if not (start > 0 and end > 0):
        raise ConfigError(f"learning rates are {start:g} and {end:g}; both must be greater than 0")
    half = epochs // 2
    return lambda t: start if t < half else start * (end / start) ** ((t - half) / (epochs - half))


def parse_lambda(text: str) -> Schedule:
    """Read a schedule of lambda: ``"1.5"`` (constant) or ``"x,y,e"`` (linear from x to y in e epochs).

    Raises:
        ConfigError: the text is neither, or a value is negative or not finite.
    """
    return _from_numbers(_numbers(text, "lambda schedule"))


def parse_epsilon(text: str, epsilon: float, epochs: int) -> Schedule:
    """Read a schedule of epsilon: ``"single"``, ``"log"`` or ``"x,y,e"``.

    Args:
        text: the schedule as the paper writes it.
        epsilon: the training epsilon that ``single`` keeps and ``log`` grows to.
        epochs: number of epochs of the run, without warm-up.

    Raises:
        ConfigError: the text is none of the three.
    """
    if text == "single":
        return constant(epsilon)
    if text == "log":
        return logarithmic(epsilon, epochs)
    return _from_numbers(_numbers(text, "epsilon schedule", words="'single', 'log' or "))


def rescale(text: str, factor: float) -> str:
    """Stretch the duration of an ``"x,y,e"`` schedule by ``factor``; other schedules stay as they are."""
    parts = text.split(",")
    if len(parts) != 3:
        return text
    start, end, duration = parts
    return f"{start},{end},{read_number(duration) * factor:g}"


def rescale_values(text: str, factor: float) -> str:
    """Multiply the values of ``"x"`` and ``"x,y,e"`` schedules by ``factor``; other schedules stay as they are."""
    try:
        numbers = [read_number(part) for part in text.split(",")]
    except ValueError:
        return text
    return ",".join([*(f"{number * factor:.9g}" for number in numbers[:2]), *text.split(",")[2:]])


def _from_numbers(numbers: list[float]) -> Schedule:
    return constant(numbers[0]) if len(numbers) == 1 else linear(*numbers)


def _numbers(text: str, what: str, words: str = "") -> list[float]:
    try:
        numbers = [read_number(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise ConfigError(f"{what} is {text!r}; write {words}'x' or 'x,y,e' with numbers >= 0")
    return numbers


def read_number(text: str) -> float:
    """Return the number that ``text`` says, or the quotient of two, as people write radii of images in bytes: 36/255.

    Raises:
        ValueError: it is neither, or a quotient by 0.
    """
    numerator, slash, denominator = text.partition("/")
    if not slash:
        return float(text)
    try:
        return float(numerator) / float(denominator)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by 0") from None
