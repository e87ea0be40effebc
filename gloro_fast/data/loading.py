"""Find a data set by its name, or by the path of an archive or image folder."""

from __future__ import annotations

from pathlib import Path

from gloro_fast.data import cifar10, digits, folder, mnist, npz, tiny_imagenet
from gloro_fast.data.dataset import DataSet
from gloro_fast.data.download import fetch
from gloro_fast.errors import ConfigError, DataError, nearest
from gloro_fast.progress import Progress

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "tiny-imagenet", "folder", "npz")
"""What :func:`load` knows by name."""


def load(
    name: str, data_dir: Path | str | None = None, *, download: bool = False, test_share: float | None = None
) -> DataSet:
    """Read a data set into memory.

    Args:
        name: one of :data:`NAMES`, or the path of a ``.npz`` file or of an image folder.
        data_dir: where its files are, in the layout in which torchvision keeps them; for "folder" the image
            folder, for "npz" the file. The digits need none.
        test_share: for an image folder that is not split: the share of each class to hold out for testing, 0.2 by
            default.
        download: let torchvision fetch MNIST, Fashion-MNIST or CIFAR-10 into ``data_dir`` if it is not there.

    Returns:
        The data set; pixels as the files have them.

    Raises:
        ConfigError: an unknown name; the message has the nearest. ``test_share`` for data that come split.
        DataError: files are missing, damaged, or hold something else.
    """
    given = None if data_dir is None else Path(data_dir).expanduser()
    path = Path(name).expanduser()
    if test_share is not None and name != "folder" and (name in NAMES or not path.is_dir()):
        raise ConfigError(f"{name} has a test split of its own; leave --test-share out")
    with Progress(f"reading {name}"):
        return _load(name, path, given, download, test_share)


def _load(name: str, path: Path, given: Path | None, download: bool, test_share: float | None) -> DataSet:
    match name:
        case "digits":
            return digits.load()
        case "mnist" | "fashion-mnist":
            if download and given and mnist.find(name, given) is None:
                fetch(name, given)
            return mnist.load(name, given)
        case "cifar10":
            if download and given and cifar10.find(given) is None:
                fetch(name, given)
            return cifar10.load(given)
        case "tiny-imagenet":
            return tiny_imagenet.load(given)
        case "folder":
            return folder.load(given, test_share)
        case "npz":
            return npz.load(given)
        case _:
            return _load_path(name, path, test_share)


def _load_path(name: str, path: Path, test_share: float | None) -> DataSet:
    if path.is_dir():
        return folder.load(path, test_share)
    if path.is_file() and path.suffix == ".npz":
        return npz.load(path)
    if path.suffix == ".npz" or len(path.parts) > 1:
        raise DataError(f"{name} is neither a .npz file nor an image folder; check the path")
    raise ConfigError(f"unknown data set {name!r}{nearest(name.lower(), NAMES)}")
