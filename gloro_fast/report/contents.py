"""What a report says of a run: collected from its files, its net and the images that it was tried on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_fast.certificate_file import layer_records
from gloro_fast.data import Split
from gloro_fast.errors import DataError
from gloro_fast.evaluate import Evaluation
from gloro_fast.files.certificate_record import LayerRecord
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.train.config import RunConfig
from gloro_fast.train.cost import CertificationCost, certification_cost
from gloro_fast.train.epochs import EpochMetrics
from gloro_fast.train.observers.metrics_csv import read_metrics
from gloro_fast.train.run_folder import RunFolder

_SHOWN = 12
_TIMED = 512


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows.

    Attributes:
        config: what decided the run.
        result: result.json.
        rows: metrics of its epochs; none of a net that was imported.
        data: name of the data set that the net was tried on.
        data_note: what to print beside results made with it.
        part: "test" or "train".
        split: the images.
        class_names: of the classes.
        epsilon: l2 radius that decides what is certified.
        evaluation: of ``split``, logits kept.
        kind: of the bound: "exact", "upper bound" or "estimate".
        layers: the bound on each layer, and the estimate that lies below its constant.
        power: the estimate of K, from below.
        parameters: how many numbers are trained.
        cost: of certifying the first images.
    """

    config: RunConfig
    result: dict[str, Any]
    rows: list[EpochMetrics]
    data: str
    data_note: str
    part: str
    split: Split
    class_names: tuple[str, ...]
    epsilon: float
    evaluation: Evaluation
    kind: str
    layers: list[LayerRecord]
    power: float
    parameters: int
    cost: CertificationCost

    @classmethod
    def of(
        cls,
        folder: RunFolder,
        config: RunConfig,
        net: GloRoNet,
        evaluation: Evaluation,
        split: Split,
        *,
        class_names: Sequence[str],
        epsilon: float,
        data: str,
        data_note: str = "",
        part: str = "test",
    ) -> Contents:
        """Collect them; the net is bounded once more, by ``power`` and for its cost.

        Args:
            folder: of the finished run.
            config: its configuration.
            net: its net, frozen.
            evaluation: the net's, of ``split``, with logits.
            split: the images.
            class_names: of the classes, as many as the net has, or fewer.
            epsilon: l2 radius > 0.
            data: name of the data set.
            data_note: a remark on it.
            part: "test" or "train".

        Raises:
            DataError: result.json or metrics.csv cannot be read.
        """
        layers, kind = layer_records(net), net.bound.kind
        few = Split(split.images[:_TIMED], split.labels[:_TIMED])
        return cls(
            config=config,
            result=_read_result(folder.result),
            rows=read_metrics(folder.metrics),
            data=data,
            data_note=data_note,
            part=part,
            split=split,
            class_names=(*class_names, *map(str, range(len(class_names), net.num_classes))),
            epsilon=epsilon,
            evaluation=evaluation,
            kind=kind,
            layers=layers,
            power=net.find_bound("power").lipschitz,
            parameters=sum(parameter.numel() for parameter in net.module.parameters()),
            cost=certification_cost(net, few, rounds=1),
        )

    def confusion(self) -> Tensor:
        """Return how many of the certified images of class i are predicted to be j, (m, m) int64."""
        certified = self.evaluation.radius > self.epsilon
        m = len(self.class_names)
        places = self.evaluation.labels[certified] * m + self.evaluation.prediction[certified]
        return torch.bincount(places, minlength=m * m).reshape(m, m)

    def margins(self) -> Tensor:
        """Return the largest logit less the second largest of every image, (N,) float64."""
        top = self.evaluation.logits.double().topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    def least_certain(self) -> list[int]:
        """Return the places of the certified images with the smallest radii, ascending; a dozen at most."""
        radius = self.evaluation.radius
        certified = (radius > self.epsilon).nonzero().flatten()
        return certified[radius[certified].argsort(stable=True)][:_SHOWN].tolist()

    def most_wrong(self) -> list[int]:
        """Return the places of the wrongly predicted images with the largest margins, descending; a dozen at most."""
        margins = self.margins()
        wrong = (~self.evaluation.correct).nonzero().flatten()
        return wrong[margins[wrong].argsort(descending=True, stable=True)][:_SHOWN].tolist()


def _read_result(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or train the run again") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no result; restore it, or train the run again")
    return found
