"""Labels of a batch: what is refused, and what a loss of m + 1 logits makes of those that PyTorch takes for m."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast.errors import DataError


def check_labels(
    labels: Tensor,
    rows: int,
    classes: int,
    ignore_index: int | None = None,
    probabilities: bool = False,
    on_device: bool = True,
) -> None:
    """Refuse labels that cannot be the classes of a batch; bottom is no label.

    On an accelerator the range is asserted by the device itself: reading it here would wait for the device at
    every step.

    Args:
        labels: what was given.
        rows: images in the batch.
        classes: m.
        ignore_index: a label that need not be a class.
        probabilities: whether (B, m) of a floating dtype will do.
        on_device: whether their range is to be asserted on an accelerator too; ``margin_loss`` does so itself.

    Raises:
        DataError: names what is wrong with the labels.
    """
    if not isinstance(labels, Tensor):
        raise DataError(f"labels are a {type(labels).__name__}; give a tensor of class indices")
    if labels.is_floating_point() and labels.shape == (rows, classes):
        if not probabilities:
            raise DataError(
                f"labels are probabilities {tuple(labels.shape)}, where class indices ({rows},) are needed; with "
                "CrossEntropyLoss or TradesLoss call criterion(net(x), labels)"
            )
        return
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; convert them to class indices with labels.long()")
    if labels.shape != (rows,):
        raise DataError(f"labels have shape {tuple(labels.shape)}; give one label for each of the {rows} images")
    if not is_on_host(labels):
        if on_device:
            assert_classes(labels, classes, ignore_index)
        return
    if ignore_index is not None:
        labels = labels[labels != ignore_index]
    if len(labels):
        lowest, highest = (int(label) for label in labels.aminmax())
        if lowest < 0 or highest >= classes:
            raise DataError(
                f"labels must lie in [0, {classes}) but go from {lowest} to {highest}; bottom is never a label"
            )


def assert_classes(labels: Tensor, classes: int, ignore_index: int | None = None) -> None:
    """Let the device assert that labels lie in [0, classes) or are ``ignore_index``; four launches."""
    good = labels.clamp(0, classes - 1) == labels  # fewer launches than two comparisons
    if ignore_index is not None:
        good = good | (labels == ignore_index)
    torch._assert_async(good.all(), f"labels must lie in [0, {classes}); bottom is never a label")


def is_on_host(labels: Tensor) -> bool:
    """Return whether a look at the labels waits for nothing."""
    return labels.device.type == "cpu" and not torch.compiler.is_compiling()


def class_indices(labels: Tensor) -> Tensor:
    """Return what predictions are compared with: labels (B,), or the likeliest class of probabilities (B, m)."""
    return labels.argmax(dim=1) if labels.is_floating_point() else labels


def with_bottom(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """Call ``criterion(logits, labels)`` on m + 1 logits; to PyTorch's cross entropy bottom is never the label.

    Args:
        criterion: any; ``torch.nn.CrossEntropyLoss`` may have a weight for each of the m classes.
        logits: (B, m + 1), bottom last.
        labels: (B,) int64, or probabilities (B, m).

    Returns:
        What the criterion returns.
    """
    if type(criterion) is not nn.CrossEntropyLoss:
        return criterion(logits, labels)
    classes = logits.shape[-1] - 1
    if labels.is_floating_point() and labels.shape[-1] == classes:
        labels = F.pad(labels, (0, 1))
    weight = criterion.weight
    if weight is None and criterion.label_smoothing > 0:
        weight = logits.new_ones(classes)
    if weight is not None and len(weight) == classes:
        weight = F.pad(weight, (0, 1))
    return F.cross_entropy(
        logits,
        labels,
        weight,
        ignore_index=criterion.ignore_index,
        reduction=criterion.reduction,
        label_smoothing=criterion.label_smoothing,
    )
