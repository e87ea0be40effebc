"""The loss of a batch and what there is to count, in warm-up and after it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gloro_fast.data import gaussian_noise
from gloro_fast.losses import SampledLoss
from gloro_fast.net.gloro_net import BatchStatistics, Criterion, GloRoNet


def standard_loss(net: GloRoNet, images: Tensor, labels: Tensor) -> tuple[Tensor, BatchStatistics]:
    """Return the cross entropy of f, without bottom: the loss of warm-up epochs.

    Returns:
        The mean loss, and statistics that count nothing as verified and have no K (NaN).
    """
    logits = net.module(images)
    loss = functional.cross_entropy(logits, labels)
    correct = (logits.detach().argmax(dim=1) == labels).sum()
    return loss, BatchStatistics(correct, torch.zeros_like(correct), loss.new_full((), torch.nan))


def sampled_loss(
    net: GloRoNet,
    images: Tensor,
    labels: Tensor,
    criterion: SampledLoss,
    deviation: float,
    generator: torch.Generator,
    part: slice | None = None,
    count: int = 0,
) -> tuple[Tensor, BatchStatistics]:
    """Return a loss of the smoothed classifier, with statistics as :func:`standard_loss` has them.

    Correct is what the average softmax of the noisy copies says; attacks keep to the net's epsilon.

    Args:
        net: the net; its bound plays no part.
        images: (B, C, H, W).
        labels: (B,) int64.
        criterion: the loss.
        deviation: standard deviation of the noise.
        generator: of the noise; see ``gaussian_noise``.
        part: which images of a batch these are, where others learn from the rest.
        count: images of that batch.
    """
    copies = criterion.samples
    zeros = images.new_zeros(len(images) * copies, *images.shape[1:])
    rows = None if part is None else slice(part.start * copies, part.stop * copies)
    noise = gaussian_noise(zeros, deviation, generator, rows, count * copies)
    loss, average = criterion(net.module, images, labels, noise, deviation, net.epsilon_on(images.device))
    correct = (average.argmax(dim=1) == labels).sum()
    return loss, BatchStatistics(correct, torch.zeros_like(correct), loss.new_full((), torch.nan))


def robust_loss(net: GloRoNet, images: Tensor, labels: Tensor, criterion: Criterion) -> tuple[Tensor, BatchStatistics]:
    """Return the criterion over the m + 1 logits at the net's epsilon (Leino et al. 2021, Section 4.1).

    Images and labels are not checked: those of a data set were when it was made.
    """
    loss = net.unchecked_loss(images, labels, criterion)
    assert net.batch_statistics is not None
    return loss, net.batch_statistics
