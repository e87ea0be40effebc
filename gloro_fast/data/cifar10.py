"""CIFAR-10 as distributed and as torchvision unpacks it: ``cifar-10-batches-py/data_batch_1`` and so on."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor

from gloro_fast.data import locating
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.errors import DataError

FOLDER = "cifar-10-batches-py"
_SHAPE = (3, 32, 32)
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# MD5 of the published files, as torchvision checks them. Two files of one MD5 can be made, but none of a given MD5.
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def find(data_dir: Path) -> Path | None:
    """Return the folder with the batches, under ``data_dir`` or that itself; None where there is none."""
    return locating.first_holding([data_dir / FOLDER, data_dir], "data_batch_1")


def load(data_dir: Path | None) -> DataSet:
    """Read CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in ten classes.

    The files are pickles, which can run anything, so that only those of the published checksums are read.

    Args:
        data_dir: the folder that holds ``cifar-10-batches-py``, or that folder itself.

    Raises:
        DataError: a file is missing, or is not the published one.
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
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; unpack the whole of cifar-10-python.tar.gz") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _MD5[path.name]:
        raise DataError(
            f"{path} is not the published file (its checksum differs), so it was not read; download it again, or pass "
            "your own images as a .npz file"
        )
    batch = pickle.loads(content, encoding="bytes")
    return torch.from_numpy(batch[b"data"]).reshape(-1, *_SHAPE), torch.tensor(batch[b"labels"])
