from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gloro_fast.data import load
from gloro_fast.errors import DataError


def jpeg(path: Path, value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (64, 64, 3) if mode == "RGB" else (64, 64)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path, "JPEG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    root.mkdir()
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn09\tother\n")
    for class_, base in (("n01", 10), ("n02", 100)):
        for number in range(3):
            mode = "L" if number == 1 else "RGB"
            jpeg(root / "train" / class_ / "images" / f"{class_}_{number}.JPEG", base + 10 * number, mode)
    for number in range(2):
        jpeg(root / "val" / "images" / f"val_{number}.JPEG", 200 + 10 * number)
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn01\t0\t0\t62\t62\nval_0.JPEG\tn02\t0\t0\t62\t62\n")
    return root


def test_the_published_layout_is_read(root):
    for data_dir in (root, root.parent):
        data = load("tiny-imagenet", data_dir)
        assert data.input_shape == (3, 64, 64)
        assert data.class_names == ("goldfish", "n02")  # sorted ids; the id where there is no word
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.train.images[:, 0, 0, 0].tolist() == [10, 20, 30, 100, 110, 120]
        assert data.train.images[1, :, 5, 5].tolist() == [20, 20, 20]  # grey became colour
        assert data.test.labels.tolist() == [0, 1]
        assert data.test.images[:, 0, 0, 0].tolist() == [210, 200]
        assert data.note == ""


def test_a_missing_part_is_named(root):
    with pytest.raises(DataError, match=r"no tiny-imagenet-200/wnids.txt under"):
        load("tiny-imagenet", root.parent.parent)
    (root / "val" / "images" / "val_0.JPEG").unlink()
    with pytest.raises(DataError, match=r"val_0.JPEG is not an image that can be read"):
        load("tiny-imagenet", root)
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt is missing"):
        load("tiny-imagenet", root)
    (root / "wnids.txt").write_text("n01\nn03\n")
    with pytest.raises(DataError, match=r"n03/images holds no .JPEG"):
        load("tiny-imagenet", root)


def test_an_unknown_class_in_the_annotations_is_named(root):
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t62\t62\n")
    with pytest.raises(DataError, match=r"val_0.JPEG the class 'n77'"):
        load("tiny-imagenet", root)


def test_a_truncated_image_is_named(root):
    path = root / "train" / "n02" / "images" / "n02_2.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"n02_2.JPEG is not an image that can be read"):
        load("tiny-imagenet", root)
