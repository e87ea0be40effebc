"""The recorded images: logits evaluated anew, and what follows from them compared in rational numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from gloro_fast.audit.forward import Constants, Elements, evaluate, executed_radius
from gloro_fast.audit.layers import Array, Layer
from gloro_fast.data import to_float
from gloro_fast.files.certificate_record import CertificateRecord
from gloro_fast.progress import tracked

if TYPE_CHECKING:
    from gloro_fast.data import Split

_BATCH = 256
_SHOWN = 3
# Radii are rounded down by a few units of the last place, and by a little more where float64 was bounded in norms.
_BELOW = Fraction(1, 10**12)
_EXECUTED_BELOW = 1e-6
# What three roundings in float64 may do, and more.
_WIDER = 2.0**-50


@dataclass
class RealRadii:
    """What is found of the radii of the net itself, in real arithmetic, beside the recorded ones, of rounded logits.

    Attributes:
        above: the most that a recorded radius is above that of the net.
    """

    above: float = 0.0


def check_samples(
    certificate: CertificateRecord, layers: Sequence[Layer], split: Split, found: RealRadii
) -> Iterator[str]:
    """Check logits, prediction, margin, radii and whether it is certified, of every image; note what is ``found``."""
    allowed = _executed(certificate, layers, split) if certificate.executed else None
    for wrong in (
        _check_logits(certificate, layers, split, found),
        _check_exactly(certificate),
        _check_executed(certificate, allowed),
    ):
        yield from _first(wrong)


def check_summary(certificate: CertificateRecord) -> Iterator[str]:
    """Count again."""
    count, epsilon = len(certificate.labels), certificate.epsilon
    right = [a == b for a, b in zip(certificate.labels, certificate.prediction, strict=True)]
    expected = {"clean_accuracy": sum(right)}
    for prefix, radii in (("", certificate.radius), ("real_", certificate.real_radius)):
        sure = [radius > epsilon for radius in radii]
        expected[f"{prefix}certified"] = sum(sure)
        expected[f"{prefix}vra"] = sum(a and b for a, b in zip(right, sure, strict=True))
    for name in sorted(expected.keys() | certificate.summary.keys()):
        share = expected[name] / count if name in expected else None
        if certificate.summary.get(name) != share:
            yield f"{name} is {certificate.summary.get(name)!r} in the summary instead of {share!r}"


def _first(lines: Iterator[str]) -> Iterator[str]:
    """Pass on the first few of many lines, and their number."""
    more = 0
    for place, line in enumerate(lines):
        if place < _SHOWN:
            yield line
        else:
            more += 1
            last = line
    if more:
        yield f"... and {more} more like these, up to: {last}"


def _batches(split: Split, dtype: str) -> Iterator[tuple[int, Array]]:
    """Yield the place of the first image and the images as columns, as the program of that type gets them."""
    for first in tracked(range(0, len(split), _BATCH), len(split) / _BATCH, "evaluating the images anew"):
        images = to_float(split.images[first : first + _BATCH])
        yield first, images.numpy().astype(dtype).astype(np.float64).reshape(len(images), -1).T


def _dtype(certificate: CertificateRecord) -> str:
    return str(certificate.logits.numpy().dtype)


def _check_logits(
    certificate: CertificateRecord, layers: Sequence[Layer], split: Split, found: RealRadii
) -> Iterator[str]:
    dtype = _dtype(certificate)
    recorded = certificate.logits.double().numpy().T
    constants = [record.value for record in certificate.layers]
    slopes = _differences(certificate) * certificate.lipschitz
    for first, images in _batches(split, dtype):
        here = slice(first, first + images.shape[1])
        own = evaluate(layers, images, dtype, constants)
        off = np.abs(recorded[:, here] - own.value)
        for place in np.flatnonzero(~(off <= own.error + own.program).all(axis=0)):
            yield f"image {first + place}: a logit is {off[:, place].max():.3g} off, more than rounding explains"
        # Rounding alone may put a radius above epsilon that is not, and so may who edits logits within it.
        for index, radius in enumerate(_real_radii(own, certificate.prediction[here], slopes), start=first):
            said = certificate.real_radius[index]
            found.above = max(found.above, said - radius if said != radius else 0.0)
            if said > certificate.epsilon and not radius > certificate.epsilon:
                yield (
                    f"image {index}: certified by the rounding of its logits alone: the radius {said!r} is {radius!r} "
                    "in the net itself"
                )


def _real_radii(own: Elements, prediction: Sequence[int], slopes: Array) -> list[float]:
    """Bound the radii (B) of the net itself from below, for slopes (m, m) K D_ij."""
    columns = np.arange(len(prediction))
    lower, upper = own.value - own.error, own.value + own.error
    gap = (lower[prediction, columns] - upper) * (1 - _WIDER)
    own_slopes = slopes[:, prediction] * (1 + _WIDER)
    quotient = np.divide(np.maximum(gap, 0.0), own_slopes, out=np.where(gap > 0, np.inf, 0.0), where=own_slopes > 0)
    quotient[prediction, columns] = np.inf
    radii: list[float] = quotient.min(axis=0).tolist()
    return radii


def _check_exactly(certificate: CertificateRecord) -> Iterator[str]:
    classes = certificate.logits.shape[1]
    slopes = _slopes(certificate, classes)
    logits = certificate.logits.tolist()
    for index, row in enumerate(tracked(logits, len(logits), "comparing the radii in rational numbers")):
        said = (certificate.prediction[index], certificate.margin[index], certificate.real_radius[index])
        yield from (f"image {index}: {line}" for line in _check_row(row, slopes, *said))
        radius = certificate.radius[index]
        if certificate.certified[index] is not (radius > certificate.epsilon):
            yield f"image {index}: certified is {certificate.certified[index]} at radius {radius!r}"
        if not (0 <= radius <= said[2]) or (radius != said[2] and not certificate.executed):
            yield f"image {index}: radius {radius!r} beside {said[2]!r} in real arithmetic"


def _slopes(certificate: CertificateRecord, classes: int) -> list[list[Fraction | None]]:
    """Return K D_ij; None where it is not finite."""
    entries = iter(certificate.differences)
    slopes: list[list[Fraction | None]] = [[Fraction(0)] * classes for _ in range(classes)]
    for i in range(classes):
        for j in range(i + 1, classes):
            distance = next(entries)
            finite = math.isfinite(distance) and math.isfinite(certificate.lipschitz)
            slopes[i][j] = slopes[j][i] = Fraction(distance) * Fraction(certificate.lipschitz) if finite else None
    return slopes


def _check_row(
    row: list[float], slopes: list[list[Fraction | None]], prediction: int, margin: float, radius: float
) -> Iterator[str]:
    if not all(map(math.isfinite, row)):
        # Such a row matches no evaluation of its image, which says so.
        if radius != 0:
            yield f"radius {radius!r} in spite of a logit that is not finite"
        return
    if prediction != row.index(max(row)):
        yield f"the prediction is {prediction} instead of {row.index(max(row))}"
        return
    exact = [Fraction(value) for value in row]
    gaps = [exact[prediction] - value for place, value in enumerate(exact) if place != prediction]
    if margin != float(min(gaps)):
        yield f"the margin is {margin!r} instead of {float(min(gaps))!r}"
    own = [slope for place, slope in enumerate(slopes[prediction]) if place != prediction]
    if None in own:
        if radius != 0:
            yield f"radius {radius!r} in spite of a bound that is not finite"
        return
    limits = [
        gap / slope if gap and slope else Fraction(0) for gap, slope in zip(gaps, own, strict=True) if slope or not gap
    ]
    yield from _check_radius(radius, min(limits, default=None))


def _check_radius(radius: float, exact: Fraction | None) -> Iterator[str]:
    if exact is None:
        if radius != math.inf:
            yield f"the radius is {radius!r}, but nothing limits it"
    elif not (math.isfinite(radius) and Fraction(radius) <= exact):
        yield f"the radius {radius!r} is above the exact one, {float(exact)!r}"
    elif Fraction(radius) < exact * (1 - _BELOW) - Fraction(2) ** -1000:
        yield f"the radius {radius!r} is below the exact one, {float(exact)!r}"


def _executed(certificate: CertificateRecord, layers: Sequence[Layer], split: Split) -> Array:
    """Return the radius that the formula of executed certificates allows each image."""
    dtype = _dtype(certificate)
    constants = [Constants(record.value, record.absolute or 0.0) for record in certificate.layers]
    differences = _differences(certificate)
    parts = []
    for first, images in _batches(split, dtype):
        prediction = certificate.prediction[first : first + images.shape[1]]
        parts.append(executed_radius(layers, constants, differences, certificate.lipschitz, images, prediction, dtype))
    return np.concatenate(parts)


def _differences(certificate: CertificateRecord) -> Array:
    """Return D, (m, m)."""
    classes = certificate.logits.shape[1]
    differences = np.zeros((classes, classes))
    differences[np.triu_indices(classes, 1)] = certificate.differences
    return differences + differences.T


def _check_executed(certificate: CertificateRecord, allowed: Array | None) -> Iterator[str]:
    if allowed is None:
        return
    for index, (radius, real, limit) in enumerate(
        zip(certificate.radius, certificate.real_radius, allowed.tolist(), strict=True)
    ):
        if not radius <= limit:
            yield f"image {index}: the executed radius {radius!r} is above what rounding leaves, {limit!r}"
        elif radius < min(real, limit) * (1 - _EXECUTED_BELOW) - _EXECUTED_BELOW:
            yield f"image {index}: the executed radius {radius!r} is below {min(real, limit)!r}"
