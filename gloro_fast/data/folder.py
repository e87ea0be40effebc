"""Any folder of images: ``train/<class>/*`` and ``test/<class>/*`` (or ``val``), or ``<class>/*``, which is split."""

from __future__ import annotations

from pathlib import Path

import torch

from gloro_fast.data import images, locating
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.errors import ConfigError, DataError

_LAYOUT = "train/<class>/* and test/<class>/*, or <class>/* alone"
TEST_SHARE = 0.2
# The same split for every run, so that their results compare.
_SEED = 0
_Labelled = tuple[Path, int]
_JPEG = (".jpg", ".jpeg")
JPEG_NOTE = (
    "read from JPEG files: if they are lossy re-encodings of a published data set, results are not "
    "comparable with published ones"
)


def load(data_dir: Path | None, test_share: float | None = None) -> DataSet:
    """Read a folder of images in which each class has its own folder.

    Classes are the folders under ``train``, numbered in sorted order; files are taken in sorted order too,
    hidden ones left out. Images stay grey only where all of them are.

    A folder with neither ``train`` nor ``test`` nor ``val`` holds the classes themselves. Of each, images chosen at
    random, the same ones every time, are the test split; the note says so.

    Args:
        data_dir: the folder that holds ``train``, and ``test`` or ``val``, or the classes.
        test_share: the share of each class to hold out where there is no test split, at least one image and not all;
            None is 0.2.

    Raises:
        ConfigError: ``test_share`` is no share, or the folder has a test split.
        DataError: the layout is another one, an image is damaged or of another size, the test split has a
            class that the training split has not, or a class has too few images to split.
    """
    root = locating.required(data_dir, "an image folder", f"the folder that holds {_LAYOUT}")
    notes = []
    if any((root / part).is_dir() for part in ("train", "test", "val")):
        if test_share is not None:
            raise ConfigError(f"{root} has a test split of its own; leave --test-share out")
        classes, train, test = _given(root)
        share = 0.0
    else:
        share = TEST_SHARE if test_share is None else test_share
        classes, train, test = _split(root, share)
        notes.append(
            f"{root.resolve().name} has no test split: {len(test):,} of {len(train) + len(test):,} images, "
            f"{share:.4g} of each class at random (seed {_SEED}), were held out as one"
        )
    if any(path.suffix.lower() in _JPEG for path, _ in train + test):
        notes.append(JPEG_NOTE)
    pixels = images.read([path for path, _ in train + test])
    labels = torch.tensor([label for _, label in train + test])
    return DataSet(
        root.resolve().name,
        Split(pixels[: len(train)], labels[: len(train)]),
        Split(pixels[len(train) :], labels[len(train) :]),
        tuple(classes),
        note="; ".join(notes),
        test_share=share,
    )


def _given(root: Path) -> tuple[list[str], list[_Labelled], list[_Labelled]]:
    """List the classes, and the files of ``train`` and ``test`` (or ``val``) with their labels."""
    train_root = root / "train"
    test_root = root / "test" if (root / "test").is_dir() else root / "val"
    for part in (train_root, test_root):
        if not part.is_dir():
            raise DataError(f"{root} has no folder {part.name}; lay the images out as {_LAYOUT}")
    classes = _folders(train_root)
    return classes, _files(train_root, classes), _files(test_root, classes)


def _split(root: Path, share: float) -> tuple[list[str], list[_Labelled], list[_Labelled]]:
    """List the classes, and their files with labels, the test split's apart."""
    if not 0 < share < 1:
        raise ConfigError(f"--test-share is {share:g}; it must be a number between 0 and 1")
    classes = _folders(root)
    files = _files(root, classes)
    generator = torch.Generator().manual_seed(_SEED)
    held_out: set[Path] = set()
    for label, name in enumerate(classes):
        own = [path for path, its in files if its == label]
        if len(own) < 2:
            raise DataError(f"{root / name} has {len(own)} image; to hold one out for testing a class needs at least 2")
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held_out.update(own[place] for place in torch.randperm(len(own), generator=generator)[:count].tolist())
    return classes, [f for f in files if f[0] not in held_out], [f for f in files if f[0] in held_out]


def _folders(root: Path) -> list[str]:
    return [path.name for path in _visible(root) if path.is_dir()]


def _files(root: Path, classes: list[str]) -> list[_Labelled]:
    found = []
    for folder in _visible(root):
        if not folder.is_dir():
            raise DataError(f"{folder} lies outside the class folders; lay the images out as {_LAYOUT}")
        if folder.name not in classes:
            raise DataError(f"{folder} is a class that train does not have; known: {', '.join(classes)}")
        files = _visible(folder)
        if root.name not in ("test", "val") and not files:
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
