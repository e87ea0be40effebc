"""What a data set is: two splits of images and labels, wholly in memory, and the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gloro_fast.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one split.

    Attributes:
        images: (N, C, H, W), uint8 as files hold them (0 to 255), or float32 in [0, 1].
        labels: (N,), int64, class indices from 0.

    Raises:
        DataError: on construction, when a dtype or shape is not as above or there are no images.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dim() != 4 or 0 in images.shape[1:]:
            raise DataError(f"images have shape {tuple(images.shape)}; (N, C, H, W) is needed")
        if images.dtype not in (torch.uint8, torch.float32):
            raise DataError(f"images are {images.dtype}; uint8 (0 to 255) or float32 (0 to 1) is needed")
        if labels.dtype != torch.int64:
            raise DataError(f"labels are {labels.dtype}; class indices as int64 are needed")
        if labels.dim() != 1 or len(labels) != len(images):
            raise DataError(f"{len(images)} images but labels of shape {tuple(labels.shape)}; one label an image")
        if len(images) == 0:
            raise DataError("a split has no images; it needs at least one")

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def take(self, indices: Tensor) -> Self:
        """Return a copy of the images of these indices, (M,) int64, and their labels."""
        return type(self)(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set as the trainer and the evaluation take it.

    Attributes:
        name: "mnist" for example.
        train: the training split.
        test: the held-out split; never used to select a model.
        class_names: one name a class, in the order of the labels.
        note: what to print beside results made with it; empty where there is nothing to say.
        test_share: the share of each class that the reader held out for testing; 0 where the data come split.

    Raises:
        DataError: on construction, when a label names no class, the splits disagree in image shape, or there
            are fewer than two classes.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    note: str = ""
    test_share: float = 0.0

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise DataError(f"{self.name}: {self.num_classes} class found; a classifier needs at least 2")
        train_shape, test_shape = tuple(self.train.images.shape[1:]), tuple(self.test.images.shape[1:])
        if train_shape != test_shape:
            raise DataError(
                f"{self.name}: training images are {train_shape} but test images {test_shape} (channels, "
                "height, width); make them one shape"
            )
        check_labels(self.train.labels, self.num_classes, f"{self.name}, training split")
        check_labels(self.test.labels, self.num_classes, f"{self.name}, test split")

    @property
    def num_classes(self) -> int:
        """How many classes there are (m; without bottom)."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def check_labels(labels: Tensor, num_classes: int, what: str) -> None:
    """Refuse labels outside [0, num_classes).

    Args:
        labels: (N,), integers.
        num_classes: m.
        what: the file or split to name.

    Raises:
        DataError: a label is out of range; names the first one and its position.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{what}: label {int(labels[first])} of image {first} is outside 0 to {num_classes - 1}; "
            "the file is damaged or of another data set"
        )
