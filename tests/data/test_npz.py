from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gloro_fast.data import Batches, load, to_float
from gloro_fast.errors import DataError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 4), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(path: Path, **changed: Any) -> Path:
    arrays = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:2], "y_test": LABELS[:2]} | changed
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_keras_archives_are_read_by_name_and_by_path(tmp_path):
    path = save(tmp_path / "toy.npz")
    for data in (load("npz", path), load(str(path))):
        assert data.name == "toy"
        assert data.input_shape == (1, 5, 4)
        assert data.class_names == ("0", "1", "2")
        assert np.array_equal(data.train.images[:, 0].numpy(), PIXELS)
        assert data.train.labels.tolist() == LABELS.tolist()
        assert len(data.test) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channel_axis_is_found(tmp_path, channels):
    first = RNG.integers(0, 256, (6, channels, 5, 4), np.uint8)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    by_layout = [load("npz", save(tmp_path / "toy.npz", x_train=x, x_test=x[:2])).train for x in (first, last)]
    assert by_layout[0].images.shape == (6, channels, 5, 4)
    assert np.array_equal(by_layout[0].images.numpy(), first)
    assert torch.equal(by_layout[0].images, by_layout[1].images)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_stay_floats(tmp_path, dtype):
    pixels = RNG.random((6, 5, 4)).astype(dtype)
    data = load("npz", save(tmp_path / "toy.npz", x_train=pixels))
    assert data.train.images.dtype == torch.float32
    assert np.array_equal(data.train.images[:, 0].numpy(), pixels.astype(np.float32))


@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS[:, None], LABELS.astype(">i4")])
def test_integer_labels_of_any_type(tmp_path, labels):
    assert load("npz", save(tmp_path / "toy.npz", y_train=labels)).train.labels.tolist() == LABELS.tolist()


def test_classes_may_be_named(tmp_path):
    data = load("npz", save(tmp_path / "toy.npz", class_names=np.array(["a", "b", "c", "d"])))
    assert data.class_names == ("a", "b", "c", "d")


def with_one(value: float) -> np.ndarray:
    pixels = np.full((6, 5, 4), 0.5, np.float32)
    pixels[3, 2, 1] = value
    return pixels


@pytest.mark.parametrize("value", [-2.0, 1.25, 300.0])
def test_pixels_outside_the_unit_interval_are_warned_of(tmp_path, value):
    with pytest.warns(UserWarning, match=r"x_train of .*toy.npz: pixels range from .*, outside \[0, 1\]"):
        data = load("npz", save(tmp_path / "toy.npz", x_train=with_one(value)))
    assert data.train.images[3, 0, 2, 1] == value


def test_a_process_says_it_once(tmp_path):
    """Reading both splits and cutting batches of each looks at the same pixels four times."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        data = load("npz", save(tmp_path / "toy.npz", x_train=with_one(-2.0), x_test=with_one(-2.0), y_test=LABELS))
        for split in (data.train, data.test):
            Batches(split, 2, shuffle=False)
    assert len({(warning.filename, warning.lineno) for warning in caught}) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_float_pixels_up_to_255_become_those_of_bytes(tmp_path, dtype):
    archive = save(tmp_path / "toy.npz", x_train=PIXELS.astype(dtype), x_test=PIXELS[:2].astype(dtype))
    data, of_bytes = load("npz", archive), load("npz", save(tmp_path / "bytes.npz"))
    assert torch.equal(data.train.images, to_float(of_bytes.train.images))
    assert torch.equal(data.test.images, to_float(of_bytes.test.images))
    assert data.note == "float pixels from 0 to 255 were divided by 255"
    assert of_bytes.note == ""


@pytest.mark.parametrize("key", ["x_train", "x_test"])
def test_splits_in_different_units_are_refused(tmp_path, key):
    other = {"x_train": "x_test", "x_test": "x_train"}[key]
    arrays = {key: PIXELS.astype(np.float32), other: PIXELS.astype(np.float32) / 255, "y_test": LABELS}
    with pytest.raises(DataError, match=f"{key} has float pixels up to 255 but {other} has not"):
        load("npz", save(tmp_path / "toy.npz", **arrays))


def test_classes_counted_from_1_are_refused_unless_they_are_named(tmp_path):
    arrays = {"y_train": LABELS + 1, "y_test": LABELS[:2] + 1}
    with pytest.raises(DataError, match="labels start at 1, class indices at 0; subtract 1"):
        load("npz", save(tmp_path / "toy.npz", **arrays))
    names = np.array(list("abcdefghijk"))
    assert load("npz", save(tmp_path / "toy.npz", **arrays, class_names=names)).num_classes == 11


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "has no y_test"),
        ({"x_train": PIXELS.astype(np.int64)}, "x_train of .* pixels are int64"),
        ({"x_train": with_one(np.nan)}, "x_train of .* 1 of 120 pixels are NaN"),
        ({"x_train": with_one(np.inf)}, "infinite"),
        ({"x_train": np.zeros((6, 3, 5, 3), np.uint8)}, "both the second and the last axis"),
        ({"x_train": np.zeros((6, 5, 5, 2), np.uint8)}, "no channel axis of size 1 or 3"),
        ({"x_train": np.zeros((6, 20), np.uint8)}, r"\(6, 20\)"),
        ({"x_train": PIXELS[:0], "y_train": LABELS[:0]}, "is empty"),
        ({"x_test": np.zeros((2, 5, 5), np.uint8)}, r"\(1, 5, 4\) but test images \(1, 5, 5\)"),
        ({"y_train": LABELS.astype(float)}, "y_train of .* labels are float64"),
        ({"y_train": LABELS.astype(bool)}, "labels are bool"),
        ({"y_train": np.eye(3, dtype=int)[LABELS]}, "not one-hot"),
        ({"y_train": LABELS[:5]}, "6 images but y_train 5 labels"),
        ({"y_train": LABELS - 1}, "range from -1 to 1"),
        ({"y_train": LABELS.astype(np.uint64) + np.uint64(2**63)}, "class indices start at 0"),
        ({"y_test": np.array([0, 90])}, "labels reach 90 with only 6 training images"),
        ({"y_train": LABELS * 0, "y_test": LABELS[:2] * 0}, "at least 2"),
        ({"class_names": np.array(["a", "b"])}, "label 2 of image 2 is outside 0 to 1"),
        ({"class_names": np.array([1, 2, 3])}, "a row of strings"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, changed, message):
    path = save(tmp_path / "toy.npz", **changed)
    with pytest.raises(DataError, match=message) as caught:
        load("npz", path)
    assert "\n" not in str(caught.value)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_objects_are_never_loaded(tmp_path):
    trace = tmp_path / "ran"
    trap = np.array([Trap(trace)] * 6, dtype=object)
    assert_no_advice_to_unpickle(save(tmp_path / "toy.npz", y_train=trap))
    assert not trace.exists()


def test_bytes_of_unknown_kind_bring_no_advice_to_unpickle(tmp_path):
    path = tmp_path / "toy.npz"
    path.write_bytes(b"neither an archive nor an array")
    assert_no_advice_to_unpickle(path)


def assert_no_advice_to_unpickle(path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read as a \.npz archive.* without objects") as caught:
        load("npz", path)
    assert "pickle" not in str(caught.value)
    assert "unsafe" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("size", [0, 10, 500, -1])
def test_a_truncated_archive_is_named(tmp_path, size):
    path = save(tmp_path / "toy.npz")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"toy.npz cannot be read as a .npz archive"):
        load("npz", path)


def test_a_single_array_is_no_archive(tmp_path):
    with open(tmp_path / "toy.npz", "wb") as file:
        np.save(file, PIXELS)
    with pytest.raises(DataError, match="is a single array"):
        load("npz", tmp_path / "toy.npz")


def test_a_folder_is_no_archive(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; give the .npz file itself"):
        load("npz", tmp_path)
