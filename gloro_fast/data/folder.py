"""Any folder of images: ``train/<class>/*`` and ``test/<class>/*`` (or ``val`` where ``test`` is missing)."""

from __future__ import annotations

from pathlib import Path

import torch

from gloro_fast.data import images, locating
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.errors import DataError

_LAYOUT = "train/<class>/* and test/<class>/*"
_JPEG = (".jpg", ".jpeg")
JPEG_NOTE = (
    "read from JPEG files: if they are lossy re-encodings of a published data set, results are not "
    "comparable with published ones"
)


def load(data_dir: Path | None) -> DataSet:
    """Read a folder of images in which each class has its own folder.

    Classes are the folders under ``train``, numbered in sorted order; files are taken in sorted order too,
    hidden ones left out. Images stay grey only where all of them are.

    Args:
        data_dir: the folder that holds ``train``, and ``test`` or ``val``.

    Raises:
        DataError: the layout is another one, an image is damaged or of another size, or the test split has a
            class that the training split has not.
    """
    root = locating.required(data_dir, "an image folder", f"the folder that holds {_LAYOUT}")
    train_root = root / "train"
    test_root = root / "test" if (root / "test").is_dir() else root / "val"
    for part in (train_root, test_root):
        if not part.is_dir():
            raise DataError(f"{root} has no folder {part.name}; lay the images out as {_LAYOUT}")
    classes = [path.name for path in _visible(train_root) if path.is_dir()]
    train, test = _files(train_root, classes), _files(test_root, classes)
    pixels = images.read([path for path, _ in train + test])
    labels = torch.tensor([label for _, label in train + test])
    return DataSet(
        root.resolve().name,
        Split(pixels[: len(train)], labels[: len(train)]),
        Split(pixels[len(train) :], labels[len(train) :]),
        tuple(classes),
        note=JPEG_NOTE if any(path.suffix.lower() in _JPEG for path, _ in train + test) else "",
    )


def _files(root: Path, classes: list[str]) -> list[tuple[Path, int]]:
    found = []
    for folder in _visible(root):
        if not folder.is_dir():
            raise DataError(f"{folder} lies outside the class folders; lay the images out as {_LAYOUT}")
        if folder.name not in classes:
            raise DataError(f"{folder} is a class that train does not have; known: {', '.join(classes)}")
        files = _visible(folder)
        if root.name == "train" and not files:
            raise DataError(f"{folder} is an empty class; remove it or put its images there")
        for file in files:
            if file.is_dir():
                raise DataError(f"{file} is a folder within a class; lay the images out as {_LAYOUT}")
            found.append((file, classes.index(folder.name)))
    if not found:
        raise DataError(f"{root} holds no images; lay them out as {_LAYOUT}")
    return found


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
