"""scikit-learn's handwritten digits: real scans that come inside its wheel, so nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from gloro_fast.data.causes import cause
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.errors import DataError

TEST_SIZE = 500
_SEED = 0


def load() -> DataSet:
    """Read the 1,797 grey images of 8 x 8 in ten classes, 1,297 to train with and 500 to test on.

    The pixels, 0 to 16 in the source, become bytes: round(v * 255 / 16). The source has no split of its own;
    this one is drawn once and for all (scikit-learn's ``train_test_split``, stratified by class, seed 0).
    Both parts have the same 13 writers, so results do not speak for the handwriting of others.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise DataError(
            f"the digits come with scikit-learn, which cannot be imported ({cause(error)}); "
            "install it with: pip install scikit-learn"
        ) from error
    source = load_digits()
    images = torch.from_numpy(np.rint(source.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(source.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, stratify=source.target, random_state=_SEED
    )
    return DataSet(
        "digits",
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        tuple("0123456789"),
    )
