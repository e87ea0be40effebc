"""Writing the certificate of a data split in one JSON file.

:mod:`gloro_fast.audit` checks such a file without the code that made it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from gloro_fast._version import __version__
from gloro_fast.errors import ConfigError
from gloro_fast.files.certificate_record import CertificateRecord, LayerRecord, split_digest, weights_digest
from gloro_fast.net.net_fingerprint import structure

if TYPE_CHECKING:
    from gloro_fast.data import Split
    from gloro_fast.evaluate import Evaluation
    from gloro_fast.net.gloro_net import GloRoNet


@dataclass(frozen=True)
class CertificateFile(CertificateRecord):
    """A certificate as it is made from a net; what it says is said there."""

    @classmethod
    def of(cls, net: GloRoNet, evaluation: Evaluation, split: Split, *, epsilon: float, data: str, part: str) -> Self:
        """Put together what ``evaluation`` found of ``split`` with the bounds of ``net``, frozen since.

        Args:
            net: the net that was evaluated.
            evaluation: of all images of ``split``.
            split: images and labels.
            epsilon: l2 radius to certify.
            data: name of the data set.
            part: "test" or "train".

        Raises:
            ConfigError: the evaluation is one of relaxed guarantees.
        """
        if evaluation.relaxed is not None:
            raise ConfigError(
                "a certificate file states ordinary radii, which audit checks; evaluate without relaxation"
            )
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
            data_digest=split_digest(split.images, split.labels),
            epsilon=epsilon,
            executed=evaluation.executed,
            method=bound.method,
            kind=bound.kind,
            lipschitz=bound.lipschitz,
            layers=layer_records(net, evaluation.executed),
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


def upper_triangle(matrix: Tensor) -> list[float]:
    """List the entries above the diagonal of a square matrix, row by row."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    entries: list[float] = matrix.cpu()[rows, columns].tolist()
    return entries


def layer_records(net: GloRoNet, executed: bool = False) -> list[LayerRecord]:
    """Return the bound on each layer before the head beside the estimate by ``power``, which lies below its constant.

    Args:
        net: the net, frozen.
        executed: give the norms of the absolute weights as well.
    """
    absolutes = net.absolute_norms() if executed else {}
    records = []
    for found, estimate in zip(net.bound.layers, net.find_bound("power").layers, strict=True):
        power = None if found.method == "rule" else estimate.value
        tightness = found.value / power if power else None
        absolute = absolutes.get(found.name)
        records.append(LayerRecord(found.name, found.value, found.method, found.kind, power, tightness, absolute))
    return records
