"""A NumPy archive in Keras's layout: ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gloro_fast.data import locating
from gloro_fast.data.causes import cause
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.errors import DataError
from gloro_fast.pixels import check_floats

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_CHANNELS = (1, 3)
# Neither pixels in [0, 1] that overshoot nor standardized ones go as far.
_BYTES_FROM = 16


def load(path: Path | None) -> DataSet:
    """Read a ``.npz`` archive; objects in it (pickles) are never loaded.

    - ``x_train``, ``x_test``: uint8 (0 to 255), or floats in [0, 1], kept as float32 and not made bytes,
      which would change them. Floats from 0 to 255 are divided by 255; the note says so. (N, H, W) is grey. Of
      (N, H, W, C) and (N, C, H, W), the channel axis is the one of size 1 or 3; where both the second and the last
      axis could be it, that is an error.
    - ``y_train``, ``y_test``: class indices from 0, any integer type, (N,) or (N, 1).
    - ``class_names``, optional: an array of strings. Without it there are as many classes as the largest
      label says.

    Args:
        path: the archive.

    Raises:
        DataError: damaged, a key is missing, an array is of another type or shape, classes are counted from 1, or the
            splits are in different units; names the key.

    Warns:
        UserWarning: float pixels outside [0, 1] that are no bytes either.
    """
    path = locating.required(path, "npz", f"the .npz file itself, with {', '.join(_KEYS)}")
    arrays = _arrays(path)
    splits = [Split(*_paired(path, arrays, f"x_{part}", f"y_{part}")) for part in ("train", "test")]
    splits, note = _in_unit_interval(path, splits)
    return DataSet(path.stem, splits[0], splits[1], _class_names(path, arrays, splits), note)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the .npz file itself")
    try:
        with open(path, "rb") as file:  # NumPy itself leaves it open where the archive is damaged
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array; save four with numpy.savez: {', '.join(_KEYS)}")
            missing = [key for key in _KEYS if key not in archive]
            if missing:
                found = ", ".join(archive)
                raise DataError(f"{path} has no {missing[0]}; it needs {', '.join(_KEYS)}, it has {found}")
            return {key: archive[key] for key in (*_KEYS, "class_names") if key in archive}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's parser raise a dozen kinds for damaged files.
        if "allow_pickle" in str(error):  # NumPy's advice for pickles, which it takes any unknown bytes for.
            raise DataError(
                f"{path} cannot be read as a .npz archive: it holds objects, or is none at all; save it again with "
                "numpy.savez, without objects"
            ) from None
        raise DataError(f"{path} cannot be read as a .npz archive ({cause(error)}); save it again") from error


def _paired(path: Path, arrays: dict[str, NDArray[Any]], x_key: str, y_key: str) -> tuple[Tensor, Tensor]:
    images = _images(arrays[x_key], f"{x_key} of {path}")
    labels = _labels(arrays[y_key], f"{y_key} of {path}")
    if len(images) != len(labels):
        raise DataError(f"{path}: {x_key} has {len(images)} images but {y_key} {len(labels)} labels")
    return images, labels


def _images(array: NDArray[Any], what: str) -> Tensor:
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{what}: pixels are {array.dtype}; save them as uint8 (0 to 255) or float (0 to 1)")
    if 0 in array.shape:
        raise DataError(f"{what} is empty, of shape {array.shape}; it needs at least one image")
    channels_first = _channels_first(array, what)
    return torch.from_numpy(np.ascontiguousarray(channels_first, None if array.dtype == np.uint8 else np.float32))


def _in_unit_interval(path: Path, splits: list[Split]) -> tuple[list[Split], str]:
    """Divide float pixels from 0 to 255 by 255, and give the note that says so."""
    floats = {
        key: split.images
        for key, split in zip(("x_train", "x_test"), splits, strict=True)
        if split.images.is_floating_point()
    }
    # NaN passes no comparison.
    scaled = [key for key, images in floats.items() if images.min() >= 0 and _BYTES_FROM <= images.max() <= 255]
    if not scaled:
        for key, images in floats.items():
            check_floats(images, f"{key} of {path}")
        return splits, ""
    if len(scaled) < len(splits):
        other = "x_test" if scaled == ["x_train"] else "x_train"
        raise DataError(
            f"{path}: {scaled[0]} has float pixels up to 255 but {other} has not; save both in the same units"
        )
    for images in floats.values():
        images.div_(255)
    return splits, "float pixels from 0 to 255 were divided by 255"


def _channels_first(array: NDArray[Any], what: str) -> NDArray[Any]:
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise DataError(f"{what} has shape {array.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W) is needed")
    first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
    if first and last:
        raise DataError(
            f"{what} has shape {array.shape}: both the second and the last axis could be the channels; save "
            "grey images as (N, H, W), or others so that only the channel axis has size 1 or 3"
        )
    if not first and not last:
        raise DataError(f"{what} has shape {array.shape}: no channel axis of size 1 or 3, second or last")
    return array if first else array.transpose(0, 3, 1, 2)


def _labels(array: NDArray[Any], what: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{what} has shape {array.shape}; class indices (N,) are needed, not one-hot rows")
    if array.dtype.kind not in "iu":
        raise DataError(f"{what}: labels are {array.dtype}; save class indices as integers")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**31:
        raise DataError(f"{what}: labels range from {array.min()} to {array.max()}; class indices start at 0")
    return torch.from_numpy(array.astype(np.int64))


def _class_names(path: Path, arrays: dict[str, NDArray[Any]], splits: list[Split]) -> tuple[str, ...]:
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataError(
                f"class_names of {path} is {names.dtype} of shape {names.shape}; a row of strings is needed"
            )
        return tuple(names.tolist())
    if min(int(split.labels.min()) for split in splits) == 1:
        raise DataError(
            f"{path}: labels start at 1, class indices at 0; subtract 1 from y_train and y_test, or, if class 0 has no "
            "images, name all classes in an array class_names"
        )
    count = 1 + max(int(split.labels.max()) for split in splits)
    if count > len(splits[0]):
        raise DataError(
            f"{path}: labels reach {count - 1} with only {len(splits[0])} training images; if that is meant, "
            "name the classes in an array class_names"
        )
    return tuple(map(str, range(count)))
