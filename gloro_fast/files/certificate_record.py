"""What the certificate of a data split says: whose weights, which bounds, and what follows for every image.

Numbers are written so that they read back as the very same floats.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from gloro_fast.errors import CertificateError
from gloro_fast.files import json_file, tensor_file
from gloro_fast.files.certificate_schema import check_document

FORMAT = "gloro_fast certificate"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LayerRecord:
    """The bound on one layer before the head.

    Attributes:
        name: the layer's name in the module.
        value: its Lipschitz constant, as bounded.
        method: what found it; "rule" for a constant known beforehand.
        kind: "exact", "upper bound" or "estimate".
        power: the estimate of power iteration, from below; None where the rule knows the constant.
        tightness: value / power: at most so much of the bound is slack.
        absolute: the bound on the norm of its absolute weights, for executed certificates; else None.
    """

    name: str
    value: float
    method: str
    kind: str
    power: float | None
    tightness: float | None
    absolute: float | None


@dataclass(frozen=True)
class CertificateRecord:
    """What a certificate file says of N images and m classes.

    Attributes:
        written_by: versions of the libraries and of Python.
        weights: SHA-256 of names, types, shapes and bits of all parameters and buffers of the classifier.
        modules: name, type and settings of every module of the classifier.
        input_shape: of one image.
        data: name of the data set.
        part: "test" or "train".
        data_digest: SHA-256 of its images and labels.
        epsilon: l2 radius certified.
        executed: whether ``radius`` covers the rounding of the net's forward pass.
        method: that was asked for.
        kind: the weakest of the layers'.
        lipschitz: K, of all layers before the head, or of all layers if margins rest on the whole net.
        layers: one a layer before the head.
        differences: D_ij for i < j, row by row, as bounded.
        labels: N.
        prediction: N.
        margin: N, the largest logit less the second largest, to the nearest float64.
        radius: N, certified radii.
        real_radius: N, those for real arithmetic on the logits.
        certified: N, ``radius > epsilon``.
        logits: (N, m) as computed, float32 or float64.
        summary: shares in [0, 1]: clean accuracy, certified, VRA, and the last two in real arithmetic.
    """

    written_by: dict[str, str]
    weights: str
    modules: list[list[str]]
    input_shape: list[int]
    data: str
    part: str
    data_digest: str
    epsilon: float
    executed: bool
    method: str
    kind: str
    lipschitz: float
    layers: list[LayerRecord]
    differences: list[float]
    labels: list[int]
    prediction: list[int]
    margin: list[float]
    radius: list[float]
    real_radius: list[float]
    certified: list[bool]
    logits: Tensor
    summary: dict[str, float]

    def write(self, path: Path) -> None:
        """Write ``path`` atomically.

        Raises:
            OSError: the file system refuses; what the file held before survives.
        """
        json_file.write(path, FORMAT, FORMAT_VERSION, self._document())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what :meth:`write` wrote.

        Raises:
            CertificateError: the file is missing, truncated, edited, of another kind or of another version, or has an
                entry of another type or range than certificates have.
        """
        document = json_file.read(path, FORMAT, FORMAT_VERSION)
        try:
            return cls._from(document)
        except ValueError as error:
            raise CertificateError(f"{path} is damaged: {error}; use a copy of it, or certify again") from None

    def _document(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        document["differences_sha256"] = differences_digest(self.differences)
        array = self.logits.contiguous().numpy()
        document["logits"] = {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "base64": base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode(),
        }
        return document

    @classmethod
    def _from(cls, document: dict[str, Any]) -> Self:
        check_document(document)
        values: dict[str, Any] = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        values["layers"] = [LayerRecord(**layer) for layer in values["layers"]]
        logits = document["logits"]
        content = base64.b64decode(logits["base64"], validate=True)
        array = np.frombuffer(content, np.dtype(logits["dtype"]).newbyteorder("<"))
        values["logits"] = torch.from_numpy(array.astype(logits["dtype"]).reshape(logits["shape"]))
        if document["differences_sha256"] != differences_digest(values["differences"]):
            raise ValueError("differences_sha256 is not that of the differences")
        return cls(**values)


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of ``module`` and their names."""
    return tensor_file.digest(module.state_dict())


def split_digest(images: Tensor, labels: Tensor) -> str:
    """Return the SHA-256 of the images and labels of a split, as its file holds them."""
    return tensor_file.digest({"images": images, "labels": labels})


def differences_digest(differences: list[float]) -> str:
    """Return the SHA-256 of the entries of D as little-endian float64."""
    return hashlib.sha256(np.array(differences, dtype="<f8").tobytes()).hexdigest()
