"""The certificate of a data split in one JSON file: whose weights, which bounds, and what follows for every image.

Numbers are written so that they read back as the very same floats. :mod:`gloro_fast.audit` checks such a file without
the code that made it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gloro_fast import json_file, tensor_file
from gloro_fast._version import __version__
from gloro_fast.certificate_schema import check_document
from gloro_fast.errors import CertificateError
from gloro_fast.fingerprint import structure

if TYPE_CHECKING:
    from gloro_fast.data import Split
    from gloro_fast.evaluate import Evaluation
    from gloro_fast.model import GloRoNet

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
class CertificateFile:
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

    @classmethod
    def of(
        cls, net: GloRoNet, evaluation: Evaluation, split: Split, *, epsilon: float, data: str, part: str
    ) -> CertificateFile:
        """Put together what ``evaluation`` found of ``split`` with the bounds of ``net``, frozen since.

        Args:
            net: the net that was evaluated.
            evaluation: of all images of ``split``.
            split: images and labels.
            epsilon: l2 radius to certify.
            data: name of the data set.
            part: "test" or "train".
        """
        bound = net.bound
        top = evaluation.logits.double().topk(2, dim=1).values
        return cls(
            written_by={
                "gloro_fast": __version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            weights=weights_digest(net.module),
            modules=[list(entry) for entry in structure(net.module)],
            input_shape=list(net.input_shape),
            data=data,
            part=part,
            data_digest=split_digest(split),
            epsilon=epsilon,
            executed=evaluation.executed,
            method=bound.method,
            kind=bound.kind,
            lipschitz=bound.lipschitz,
            layers=_layers(net, evaluation.executed),
            differences=upper_triangle(net.difference_bounds),
            labels=evaluation.labels.tolist(),
            prediction=evaluation.prediction.tolist(),
            margin=(top[:, 0] - top[:, 1]).tolist(),
            radius=evaluation.radius.tolist(),
            real_radius=evaluation.real_radius.tolist(),
            certified=(evaluation.radius > epsilon).tolist(),
            logits=evaluation.logits,
            summary={
                "clean_accuracy": evaluation.clean_accuracy,
                "certified": float((evaluation.radius > epsilon).double().mean()),
                "vra": evaluation.vra(epsilon),
                "real_certified": float((evaluation.real_radius > epsilon).double().mean()),
                "real_vra": evaluation.real_vra(epsilon),
            },
        )

    def write(self, path: Path) -> None:
        """Write ``path`` atomically.

        Raises:
            OSError: the file system refuses; what the file held before survives.
        """
        json_file.write(path, FORMAT, FORMAT_VERSION, self._document())

    @classmethod
    def read(cls, path: Path) -> CertificateFile:
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
    def _from(cls, document: dict[str, Any]) -> CertificateFile:
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
    """Give the SHA-256 of all parameters and buffers of ``module`` and their names."""
    return tensor_file.digest(module.state_dict())


def split_digest(split: Split) -> str:
    """Give the SHA-256 of the images and labels of ``split``, as its file holds them."""
    return tensor_file.digest({"images": split.images, "labels": split.labels})


def differences_digest(differences: list[float]) -> str:
    """Give the SHA-256 of the entries of D as little-endian float64."""
    return hashlib.sha256(np.array(differences, dtype="<f8").tobytes()).hexdigest()


def upper_triangle(matrix: Tensor) -> list[float]:
    """List the entries above the diagonal of a square matrix, row by row."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    entries: list[float] = matrix.cpu()[rows, columns].tolist()
    return entries


def _layers(net: GloRoNet, executed: bool) -> list[LayerRecord]:
    absolutes = net.absolute_norms() if executed else {}
    records = []
    for found, estimate in zip(net.bound.layers, net.bound_by("power").layers, strict=True):
        power = None if found.method == "rule" else estimate.value
        tightness = found.value / power if power else None
        absolute = absolutes.get(found.name)
        records.append(LayerRecord(found.name, found.value, found.method, found.kind, power, tightness, absolute))
    return records
