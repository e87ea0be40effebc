"""Tiny-ImageNet as distributed: ``tiny-imagenet-200`` with its ``train`` and ``val`` folders."""

from __future__ import annotations

from pathlib import Path

import torch

from gloro_fast.data import images, locating
from gloro_fast.data.causes import cause
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.errors import DataError

FOLDER = "tiny-imagenet-200"


def load(data_dir: Path | None) -> DataSet:
    """Read Tiny-ImageNet: 100,000 and 10,000 colour images of 64 x 64 in 200 classes.

    The test split is the labelled ``val`` folder, as in the papers; the labels of ``test`` were never
    published. Classes are numbered in the order of their sorted WordNet ids; grey images become colour.

    Args:
        data_dir: the folder that holds ``tiny-imagenet-200``, or that folder itself.

    Raises:
        DataError: a file is missing, damaged or does not fit the others.
    """
    given = locating.required(data_dir, "tiny-imagenet", f"the folder that holds {FOLDER}")
    root = locating.first_holding([given / FOLDER, given], "wnids.txt")
    if root is None:
        raise DataError(f"no {FOLDER}/wnids.txt under {data_dir}; unpack tiny-imagenet-200.zip there")
    wnids = sorted(_lines(root / "wnids.txt"))
    index = {wnid: position for position, wnid in enumerate(wnids)}
    train = [(path, index[wnid]) for wnid in wnids for path in _files(root / "train" / wnid / "images")]
    test = _validation_files(root / "val", index)
    pixels = images.read([path for path, _ in train + test], colour=True)
    labels = torch.tensor([label for _, label in train + test])
    return DataSet(
        "tiny-imagenet",
        Split(pixels[: len(train)], labels[: len(train)]),
        Split(pixels[len(train) :], labels[len(train) :]),
        _class_names(root / "words.txt", wnids),
    )


def _validation_files(folder: Path, index: dict[str, int]) -> list[tuple[Path, int]]:
    annotations = folder / "val_annotations.txt"
    found = []
    for line in _lines(annotations):
        file, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in index:
            raise DataError(f"{annotations} gives {file} the class {wnid!r}, which wnids.txt does not list")
        found.append((folder / "images" / file, index[wnid]))
    return found


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.JPEG"))
    if not found:
        raise DataError(f"{folder} holds no .JPEG files; unpack the whole of tiny-imagenet-200.zip")
    return found


def _class_names(path: Path, wnids: list[str]) -> tuple[str, ...]:
    """Return the first word that words.txt has for each class; the id itself where there is none."""
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)
    return tuple(words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; unpack the whole of tiny-imagenet-200.zip") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({cause(error)}); unpack it again") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} is empty; unpack it again")
    return found
