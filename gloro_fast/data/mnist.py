"""MNIST and Fashion-MNIST as torchvision lays them out: ``MNIST/raw/train-images-idx3-ubyte[.gz]`` etc."""

from __future__ import annotations

from pathlib import Path

from gloro_fast.data import idx, locating
from gloro_fast.data.dataset import DataSet, Split, check_labels
from gloro_fast.errors import DataError

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""The folder that torchvision makes for each of the two."""

_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
}


def find(name: str, data_dir: Path) -> Path | None:
    """Return the folder with the files of ``name``: under ``data_dir``, or that itself; None where none is."""
    folder = FOLDERS[name]
    candidates = [data_dir / folder / "raw", data_dir]
    if data_dir.name == folder:
        candidates.append(data_dir / "raw")
    return locating.first_holding(candidates, "train-images-idx3-ubyte")


def load(name: str, data_dir: Path | None) -> DataSet:
    """Read one of the two data sets: 60,000 and 10,000 grey images of 28 x 28.

    Args:
        name: "mnist" or "fashion-mnist".
        data_dir: the folder that holds torchvision's ``MNIST`` or ``FashionMNIST``, or the files themselves.

    Raises:
        DataError: a file is missing, truncated, of another kind, or does not fit the others.
    """
    expected = f"{FOLDERS[name]}/raw/train-images-idx3-ubyte[.gz]"
    folder = find(name, locating.required(data_dir, name, f"the folder that holds {expected}"))
    if folder is None:
        raise DataError(
            f"no {expected} under {data_dir}; put {name}'s four files there, or let torchvision fetch them "
            "(download=True)"
        )
    return DataSet(name, _split(folder, "train"), _split(folder, "t10k"), _CLASSES[name])


def _split(folder: Path, prefix: str) -> Split:
    images_path = _file(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _file(folder, f"{prefix}-labels-idx1-ubyte")
    images = idx.read(images_path, dimensions=3)
    labels = idx.read(labels_path, dimensions=1).long()
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path} holds {len(labels)} labels but {images_path.name} {len(images)} images; "
            "take both from the same source"
        )
    check_labels(labels, 10, str(labels_path))
    return Split(images.unsqueeze(1), labels)


def _file(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise DataError(f"{folder / name}[.gz] is missing; put it beside the other files of the data set")
