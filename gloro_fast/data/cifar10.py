"""CIFAR-10 as distributed and as torchvision unpacks it: ``cifar-10-batches-py/data_batch_1`` and so on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gloro_fast.data import array_pickle, locating
from gloro_fast.data.dataset import DataSet, Split, check_labels
from gloro_fast.errors import DataError

FOLDER = "cifar-10-batches-py"
_SHAPE = (3, 32, 32)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def find(data_dir: Path) -> Path | None:
    """Give the folder with the batches, under ``data_dir`` or that itself; None where there is none."""
    return locating.first_holding([data_dir / FOLDER, data_dir], "data_batch_1")


def load(data_dir: Path | None) -> DataSet:
    """Read CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in ten classes.

    The files are pickles; what they may contain is not executed (:mod:`gloro_fast.data.array_pickle`).

    Args:
        data_dir: the folder that holds ``cifar-10-batches-py``, or that folder itself.

    Raises:
        DataError: a file is missing, damaged, not to be trusted, or holds something else.
    """
    folder = find(locating.required(data_dir, "cifar10", f"the folder that holds {FOLDER}"))
    if folder is None:
        raise DataError(
            f"no {FOLDER}/data_batch_1 under {data_dir}; unpack cifar-10-python.tar.gz there, or let "
            "torchvision fetch it (download=True)"
        )
    train = [_batch(folder / f"data_batch_{number}") for number in range(1, 6)]
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return DataSet("cifar10", Split(images, labels), Split(*_batch(folder / "test_batch")), _CLASSES)


def _batch(path: Path) -> tuple[Tensor, Tensor]:
    if not path.exists():
        raise DataError(f"{path} is missing; unpack the whole of cifar-10-python.tar.gz")
    content = array_pickle.read(path)
    data, labels = content.get("data"), content.get("labels")
    if not isinstance(data, array_pickle.ByteArray) or not isinstance(labels, list):
        raise DataError(f"{path} has no 'data' and 'labels' as CIFAR-10's batches have; is it CIFAR-100's?")
    try:
        images = data.tensor()
    except DataError as error:
        raise DataError(f"{path} {error}; download it again") from error
    if images.dim() != 2 or images.shape[1] != 3 * 32 * 32:
        raise DataError(f"{path} holds an array of shape {tuple(images.shape)} where (N, 3072) is expected")
    if len(labels) != len(images) or not all(type(label) is int for label in labels):
        raise DataError(f"{path} does not hold one whole number as label for each of its {len(images)} images")
    targets = torch.tensor([min(max(label, -1), 10) for label in labels])  # clamped: int64 holds any offender
    check_labels(targets, 10, str(path))
    return images.reshape(-1, *_SHAPE), targets
