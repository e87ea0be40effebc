from __future__ import annotations

import sys

import pytest
import torch

from gloro_fast.data import load
from gloro_fast.errors import DataError


def test_every_digit_is_in_one_split_with_its_bytes():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    data = load("digits")
    assert data.input_shape == (1, 8, 8)
    assert (len(data.train), len(data.test), data.num_classes) == (1297, 500, 10)
    source = sklearn_datasets.load_digits()
    expected = sorted(
        (int(label), *(round(value * 255 / 16) for value in image.flatten()))
        for image, label in zip(source.images, source.target, strict=True)
    )
    found = sorted(
        (int(label), *image.flatten().tolist())
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    )
    assert found == expected


def test_the_split_is_stratified_and_always_the_same():
    pytest.importorskip("sklearn.datasets")
    first, second = load("digits"), load("digits")
    assert torch.equal(first.test.images, second.test.images)
    counts = first.test.labels.bincount(minlength=10)
    assert counts.min() >= 48
    assert counts.max() <= 51


def test_without_scikit_learn_what_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install scikit-learn"):
        load("digits")
