"""The recorded bounds: each proven to be one, and none further above than it was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from scipy import sparse
from torch import nn

from gloro_fast.audit.layers import Affine, Layer, Rectifier
from gloro_fast.audit.spectral import proves, proves_nonnegative
from gloro_fast.files.certificate_record import CertificateRecord, LayerRecord
from gloro_fast.progress import tracked

OtherProof = Callable[[LayerRecord, nn.Module, tuple[int, ...]], bool]
"""Tells whether a layer's bound, as recorded, is proven by other means for inputs of a shape."""

_KINDS = ("exact", "upper bound", "estimate")
_SLACK = Fraction(1, 10**9)
_POWER_OFF = 0.01
_POWER_STEPS = 300


def check_layers(
    certificate: CertificateRecord, layers: Sequence[Layer], otherwise: OtherProof | None
) -> Iterator[str]:
    """Prove the constant of every layer before the head, and of its absolute weights where they were used."""
    records = tracked(certificate.layers, len(certificate.layers), "proving the bounds of the layers")
    for record, layer in zip(records, layers, strict=False):
        if isinstance(layer, Affine):
            yield from _check_affine(record, layer, certificate.executed, otherwise)
        elif record != LayerRecord(record.name, 1.0, "rule", "exact", None, None, None):
            yield f"layer {record.name} has more than its constant, exactly 1 by rule: {record}"
    weakest = max((record.kind for record in certificate.layers), key=_KINDS.index, default="exact")
    if certificate.kind != weakest:
        yield f"the constant is called {certificate.kind!r}, but among its layers there is one that is {weakest!r}"


def _check_affine(record: LayerRecord, layer: Affine, executed: bool, otherwise: OtherProof | None) -> Iterator[str]:
    name = record.name
    estimate = _power(layer.matrix)
    if record.kind == "estimate":
        yield f"layer {name}: {record.value!r} by {record.method} is an estimate from below, no bound"
    else:
        if record.kind == "exact":
            yield f"layer {name}: {record.value!r} is called exact; of a dense or convolutional layer it is a bound"
        proven = proves(layer.matrix, record.value)
        if proven is None and otherwise is not None and otherwise(record, layer.module, layer.input_shape):
            proven = True
        if not proven:
            why = (
                "cannot be confirmed" if proven is None else f"is not proven to be one: the norm is about {estimate!r}"
            )
            yield f"layer {name}: the bound {record.value!r} {why}"
    if record.power is None or abs(record.power - estimate) > _POWER_OFF * estimate:
        yield f"layer {name}: power iteration gives {estimate!r} instead of {record.power!r}"
    elif record.tightness != (record.value / record.power if record.power else None):
        yield f"layer {name}: tightness {record.tightness!r} is not {record.value!r} / {record.power!r}"
    if not executed:
        if record.absolute is not None:
            yield f"layer {name}: a bound {record.absolute!r} on its absolute weights, which nothing rests on"
    elif record.absolute is None or not proves_nonnegative(abs(layer.matrix), record.absolute):
        yield f"layer {name}: the bound {record.absolute!r} on its absolute weights is not proven to be one"


def check_product(certificate: CertificateRecord) -> Iterator[str]:
    """Compare K with the product of the constants, in rational numbers."""
    if not all(math.isfinite(record.value) for record in certificate.layers):
        if certificate.lipschitz != math.inf:
            yield f"K is {certificate.lipschitz!r}, but a layer has no finite bound"
        return
    product = math.prod((Fraction(record.value) for record in certificate.layers), start=Fraction(1))
    if math.isinf(certificate.lipschitz) and product > Fraction(1, 2) * 2**1024:
        return
    if not (math.isfinite(certificate.lipschitz) and product <= Fraction(certificate.lipschitz)):
        yield f"K is {certificate.lipschitz!r}, which is below the product of the layers' constants"
    elif Fraction(certificate.lipschitz) > product * (1 + _SLACK) + Fraction(2) ** -1000:
        yield f"K is {certificate.lipschitz!r}, which is above the product {float(product)!r} of the layers' constants"


def check_differences(certificate: CertificateRecord, head: Sequence[Layer]) -> Iterator[str]:
    """Compare D with the distances of the rows of the head, in rational numbers.

    Args:
        certificate: the file.
        head: the last dense layer and what follows it, if its rows were used.
    """
    classes = certificate.logits.shape[1]
    rows = None
    if head:
        assert isinstance(head[0], Affine)
        rows = [[Fraction(value) for value in row] for row in head[0].matrix.toarray().tolist()]
    rectified = any(isinstance(layer, Rectifier) for layer in head)
    entries = iter(certificate.differences)
    for i in range(classes):
        for j in range(i + 1, classes):
            bound = next(entries)
            # Of two logits that are not the outputs of a dense layer, the distance of unit vectors.
            square = Fraction(2) if rows is None else _distance(rows[i], rows[j])
            if rows is not None and rectified:
                # The slopes of both logits lie in [-1, 1].
                square = max(square, _distance(rows[i], [-value for value in rows[j]]))
            if not (bound >= 0 and (math.isinf(bound) or Fraction(bound) ** 2 >= square)):
                yield f"D[{i}, {j}] is {bound!r}, which is below {math.sqrt(square)!r}, the distance of the rows"
            elif math.isinf(bound) or Fraction(bound) ** 2 > square * (1 + _SLACK) ** 2 + Fraction(2) ** -200:
                yield f"D[{i}, {j}] is {bound!r}, which is above {math.sqrt(square)!r}, the distance of the rows"


def _distance(first: list[Fraction], second: list[Fraction]) -> Fraction:
    return sum(((a - b) ** 2 for a, b in zip(first, second, strict=True)), start=Fraction(0))


def _power(matrix: sparse.csr_array) -> float:
    """Estimate the norm from below by power iteration."""
    transposed = sparse.csr_array(matrix.T)
    v = np.random.default_rng(0).standard_normal(matrix.shape[1])
    norm = 0.0
    for _ in range(_POWER_STEPS):
        length = float(np.linalg.norm(v))
        if not length > 0:
            return 0.0
        image = matrix @ (v / length)
        norm, v = float(np.linalg.norm(image)), transposed @ image
    return norm
