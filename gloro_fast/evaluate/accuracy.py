"""Clean accuracy and verified-robust accuracy (VRA) of a net on a data split (Leino et al. 2021, Section 5)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gloro_fast.data.batches import Batches
from gloro_fast.data.dataset import Split
from gloro_fast.data.source import Source, as_split
from gloro_fast.data.source_batches import SourceBatches
from gloro_fast.distributed import ALONE, Group
from gloro_fast.errors import DataError
from gloro_fast.evaluate.relaxed import RelaxedCertificate, certify_relaxed
from gloro_fast.net.certificate import Certificate
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.ops.relaxed_margin_op import Relaxation

AnyCertificate = Certificate | RelaxedCertificate


@dataclass(frozen=True)
class Evaluation:
    """Every image's prediction and certified radius, and what follows from them.

    Attributes:
        labels: (N,) int64.
        prediction: (N,) int64, argmax of f.
        radius: (N,) float64, certified l2 radius in units of the input.
        lipschitz: K of everything before the last layer.
        method: the method that found K, with "(estimate)" where it is none but that.
        logits: (N, m) f as computed, at least float32; (N, 0) where they were not kept.
        executed: whether the radius covers the rounding of the net's own forward pass.
        real_radius: (N,) float64, the radius for real arithmetic on the logits; ``radius`` itself if not executed.
        relaxed: what is certified of sets of classes, where that was asked for. An image is then correct if its label
            is in a set of likeliest classes that is allowed, and both radii are those within which it stays in one.
    """

    labels: Tensor
    prediction: Tensor
    radius: Tensor
    lipschitz: float
    method: str
    logits: Tensor
    executed: bool
    real_radius: Tensor
    relaxed: RelaxedCertificate | None = None

    @property
    def correct(self) -> Tensor:
        """(N,) bool, whether the prediction is the label; relaxed, whether that is among the likeliest classes."""
        return self.prediction == self.labels if self.relaxed is None else self.relaxed.contains(self.labels)

    @property
    def accuracy_name(self) -> str:
        """What to call ``clean_accuracy``."""
        return "clean accuracy" if self.relaxed is None else "relaxed accuracy"

    @property
    def vra_name(self) -> str:
        """What to call ``vra``."""
        return "VRA" if self.relaxed is None else "relaxed VRA"

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified correctly, in [0, 1]."""
        return float(self.correct.double().mean())

    def vra(self, epsilon: float) -> float:
        """Return the share of images classified correctly and certified at ``epsilon``, in [0, 1]."""
        return float((self.correct & (self.radius > epsilon)).double().mean())

    def real_vra(self, epsilon: float) -> float:
        """Return the same for real arithmetic on the logits: what leaving out their rounding adds."""
        return float((self.correct & (self.real_radius > epsilon)).double().mean())

    def radius_quartiles(self) -> tuple[float, float, float]:
        """Return the quartiles of the certified radius of all images; a wrongly classified one counts as radius 0."""
        radius = torch.where(self.correct, self.radius, 0.0)
        lower, median, upper = torch.quantile(radius, radius.new_tensor([0.25, 0.5, 0.75]), interpolation="lower")
        return float(lower), float(median), float(upper)


def evaluate(
    net: GloRoNet,
    split: Split | Any,
    batch_size: int = 512,
    executed: bool = False,
    *,
    keep_logits: bool = True,
    relaxation: Relaxation | None = None,
) -> Evaluation:
    """Certify every image of ``split``; the net's mode and device stay as they are.

    Args:
        net: the net, with any method of bounding; see ``GloRoNet.freeze``.
        split: images of the net's input shape and their labels; or what gives them, read batch by batch: a
            :class:`gloro_fast.data.Source`, or what one can be made of.
        batch_size: images at a time.
        executed: cover the rounding of the net's own forward pass; see ``GloRoNet.certify``.
        keep_logits: whether the result has them, which is what takes its memory; relaxed, it never has.
        relaxation: certify sets of classes instead: k, or affinity sets; see
            :func:`gloro_fast.evaluate.certify_relaxed`.

    Raises:
        DataError: the images do not fit the net, or there are labels beyond its classes.
        ConfigError: the relaxation cannot be used, or does not fit the classes.
    """
    return collect(certified_batches(net, split, batch_size, executed, relaxation=relaxation), keep_logits)


def certified_batches(
    net: GloRoNet,
    split: Split | Any,
    batch_size: int = 512,
    executed: bool = False,
    group: Group = ALONE,
    relaxation: Relaxation | None = None,
) -> Iterator[tuple[Tensor, AnyCertificate]]:
    """Certify ``split`` batch by batch, in its order; on a GPU the next images are copied meanwhile.

    Arguments and errors are those of :func:`evaluate`.

    Args:
        net: see there.
        split: see there.
        batch_size: see there.
        executed: see there.
        group: who shares the work. Its processes take the batches in turn, as they would be in one process, so that
            each certificate has the same bits. The first process is given all of them, the others none; every one must
            go on to the end.
        relaxation: certify sets of classes instead: see :func:`gloro_fast.evaluate.certify_relaxed`.

    Yields:
        The labels of a batch, on the CPU, and its certificate, on the net's device.
    """

    def certify(images: Tensor) -> AnyCertificate:
        if relaxation is None:
            return net.certify(images, executed=executed)
        return certify_relaxed(net, images, relaxation, executed=executed)

    split = as_split(split)
    batches = _own_batches(net, split, batch_size, group)
    if group.size == 1:
        yield from ((labels, certify(images)) for images, labels in batches)
        return
    # A process that has no batch left sends what it certifies of this, without a row.
    nothing = torch.zeros(1, *net.input_shape, device=next(net.module.parameters()).device)
    while True:
        images, labels = next(batches, (nothing, torch.zeros(0, dtype=torch.int64)))
        counts = torch.zeros(group.size, dtype=torch.int64)
        counts[group.rank] = len(labels)
        if not group.sum_(counts).any():
            return
        certificate = certify(images)
        names = _columns(certificate)
        own = (labels, *(getattr(certificate, name)[: len(labels)] for name in names))
        gathered = [group.gather(column) for column in own]
        if group.is_main:
            sizes = [count for count in counts.tolist() if count]
            columns = [torch.split(column, sizes) for column in gathered if column is not None]
            for labels, *parts in zip(*columns, strict=True):
                yield labels, dataclasses.replace(certificate, **dict(zip(names, parts, strict=True)))


def _columns(certificate: AnyCertificate) -> list[str]:
    """List what a certificate has for each image."""
    return [name for name, value in vars(certificate).items() if isinstance(value, Tensor)]


def _own_batches(
    net: GloRoNet, split: Split | Source, batch_size: int, group: Group
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through the batches that this process certifies: images on the net's device, labels on the CPU."""
    device = next(net.module.parameters()).device
    if isinstance(split, Source):
        count = split.known_length
        size = batch_size if count is None else min(batch_size, count)
        everything = SourceBatches(split, size, shuffle=False, device=device, num_classes=net.num_classes)
        for images, labels in itertools.islice(everything, group.rank, None, group.size):
            yield images, labels.cpu()
        return
    if int(split.labels.max()) >= net.num_classes:
        raise DataError(
            f"labels go up to {int(split.labels.max())} but the net has {net.num_classes} classes; "
            "evaluate it on the data it was built for"
        )
    size = min(batch_size, len(split))
    if group.size > 1:
        own = torch.split(torch.arange(len(split)), size)[group.rank :: group.size]
        if not own:
            return
        split = split.take(torch.cat(own))
    batches = Batches(split, min(size, len(split)), shuffle=False, device=device, once=True)
    for labels, (images, _) in zip(torch.split(split.labels.cpu(), batches.batch_size), batches, strict=True):
        yield images, labels


def collect(batches: Iterable[tuple[Tensor, AnyCertificate]], keep_logits: bool = True) -> Evaluation:
    """Put together what :func:`certified_batches` gives."""
    found, columns = [], dict[str, list[Tensor]]()
    for labels, certificate in batches:
        found.append(labels)
        for name in _columns(certificate):
            column = getattr(certificate, name)
            if name == "logits" and not keep_logits:
                column = column.new_empty(len(column), 0)
            columns.setdefault(name, []).append(column.cpu())
    labels = torch.cat(found)
    joined: dict[str, Any] = {name: torch.cat(parts) for name, parts in columns.items()}
    whole = dataclasses.replace(certificate, **joined)
    if isinstance(whole, Certificate):
        return Evaluation(
            labels,
            whole.prediction,
            whole.radius,
            whole.lipschitz,
            whole.method,
            whole.logits,
            whole.executed,
            whole.real_radius,
        )
    return Evaluation(
        labels,
        whole.classes[:, 0],
        whole.radius_of(labels),
        whole.lipschitz,
        whole.method,
        torch.empty(len(labels), 0),
        whole.executed,
        whole.radius_of(labels, real=True),
        whole,
    )
