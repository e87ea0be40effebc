"""Let torchvision fetch a data set: the only place that imports it, only when a download was asked for."""

from __future__ import annotations

from pathlib import Path

from gloro_fast.data.causes import cause
from gloro_fast.errors import DataError

_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
_BY_HAND = {
    "mnist": "the four *-ubyte.gz files of MNIST into {}/MNIST/raw",
    "fashion-mnist": "the four *-ubyte.gz files of Fashion-MNIST into {}/FashionMNIST/raw",
    "cifar10": "the unpacked cifar-10-python.tar.gz into {} (it makes cifar-10-batches-py)",
}

NAMES = tuple(_TORCHVISION)
"""The data sets that can be fetched."""


def fetch(name: str, data_dir: Path) -> None:
    """Download data set ``name`` into ``data_dir``, in torchvision's layout.

    Args:
        name: one of :data:`NAMES`.
        data_dir: made if it is not there.

    Raises:
        DataError: torchvision is missing or broken, or the download failed; says which files to put where.
    """
    remedy = f"put {_BY_HAND[name].format(data_dir)} yourself"
    try:
        from torchvision import datasets
    except Exception as error:  # Beside another build of torch it fails with RuntimeError, OSError and others.
        raise DataError(
            f"downloading {name} needs torchvision, which cannot be imported ({cause(error)}); {remedy}"
        ) from error
    try:
        for train in (True, False):
            getattr(datasets, _TORCHVISION[name])(root=str(data_dir), train=train, download=True)
    except Exception as error:  # urllib, tarfile and torchvision's checksum test all have their own.
        raise DataError(f"the download of {name} failed ({cause(error)}); {remedy}") from error
