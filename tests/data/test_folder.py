from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gloro_fast.data import load
from gloro_fast.errors import ConfigError, DataError


def image(path: Path, value: int, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def folder(root: Path, mode: str = "RGB", test: str = "test") -> Path:
    for part in ("train", test):
        for base, class_ in ((10, "cat"), (100, "dog")):
            for number in (2, 10, 1):
                image(root / part / class_ / f"{number}.png", base + number, mode)
    return root


def test_classes_and_files_are_taken_in_sorted_order(tmp_path):
    root = folder(tmp_path / "pets")
    (root / "train" / "cat" / ".hidden").write_text("not an image")
    for data in (load("folder", root), load(str(root))):
        assert data.name == "pets"
        assert data.class_names == ("cat", "dog")
        assert data.input_shape == (3, 4, 6)
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.train.images[:, 0, 0, 0].tolist() == [11, 20, 12, 101, 110, 102]  # 1, 10, 2 as text
        assert data.note == ""


def classes_alone(root: Path, count: int = 10) -> Path:
    for base, class_ in ((10, "cat"), (100, "dog")):
        for number in range(count):
            image(root / class_ / f"{number}.png", base + number, "L")
    return root


@pytest.mark.parametrize(("share", "held_out"), [(None, 2), (0.3, 3), (0.01, 1), (0.99, 9)])
def test_a_folder_of_classes_is_split(tmp_path, share, held_out):
    root = classes_alone(tmp_path / "pets")
    data = load("folder", root, test_share=share)
    assert data.class_names == ("cat", "dog")
    assert data.test_share == (share or 0.2)
    assert data.test.labels.tolist() == [0] * held_out + [1] * held_out
    assert data.train.labels.tolist() == [0] * (10 - held_out) + [1] * (10 - held_out)
    both = torch.cat([data.train.images, data.test.images])[:, 0, 0, 0]
    assert both.sort().values.tolist() == [*range(10, 20), *range(100, 110)]
    assert f"{2 * held_out} of 20 images" in data.note
    assert "seed 0" in data.note
    again = load(str(root), test_share=share)
    assert torch.equal(again.test.images, data.test.images)
    assert data.test.images[:held_out, 0, 0, 0].tolist() != list(range(10, 10 + held_out)) or held_out == 1


def test_what_cannot_be_split(tmp_path):
    root = classes_alone(tmp_path / "pets")
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ConfigError, match="--test-share is"):
            load("folder", root, test_share=share)
    image(root / "eel" / "1.png", 3, "L")
    with pytest.raises(DataError, match="eel has 1 image; to hold one out for testing a class needs at least 2"):
        load("folder", root)
    for name, place in (("digits", None), ("folder", folder(tmp_path / "split")), (str(tmp_path / "split"), None)):
        with pytest.raises(ConfigError, match="has a test split of its own; leave --test-share out"):
            load(name, place, test_share=0.2)


def test_val_stands_in_for_a_missing_test(tmp_path):
    assert len(load("folder", folder(tmp_path, test="val")).test) == 6


def test_grey_stays_grey_only_where_all_is_grey(tmp_path):
    root = folder(tmp_path, mode="L")
    assert load("folder", root).input_shape == (1, 4, 6)
    image(root / "test" / "dog" / "1.png", 7, "RGB")
    data = load("folder", root)
    assert data.input_shape == (3, 4, 6)
    assert data.train.images[0, :, 0, 0].tolist() == [11, 11, 11]


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1"])
def test_other_kinds_of_eight_bits_are_converted(tmp_path, mode):
    root = folder(tmp_path)
    image(root / "train" / "cat" / "1.png", 255, mode)
    assert load("folder", root).train.images[0, :, 2, 2].tolist() == [255] * 3


def test_jpeg_files_bring_a_note(tmp_path):
    root = folder(tmp_path)
    image(root / "train" / "cat" / "x.jpg", 5)
    assert "not comparable" in load("folder", root).note


def another_size(root: Path) -> None:
    image(root / "test" / "dog" / "1.png", 1, size=(5, 4))


def transparent(root: Path) -> None:
    Image.new("RGBA", (6, 4), (1, 2, 3, 128)).save(root / "test" / "dog" / "1.png")


def sixteen_bits(root: Path) -> None:
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(root / "test" / "dog" / "1.png")


def truncated(root: Path) -> None:
    path = root / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:-30])


def no_image(root: Path) -> None:
    (root / "test" / "dog" / "1.png").write_text("hello")


def unknown_class(root: Path) -> None:
    image(root / "test" / "eel" / "1.png", 1)


def stray_file(root: Path) -> None:
    (root / "train" / "labels.txt").write_text("cat dog")


def nested(root: Path) -> None:
    image(root / "train" / "cat" / "deeper" / "1.png", 1)


def empty_class(root: Path) -> None:
    (root / "train" / "eel").mkdir()


def no_train(root: Path) -> None:
    (root / "train").rename(root / "training")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_size, "test/dog/1.png is 5 x 4 pixels but .*train/cat/1.png is 6 x 4"),
        (transparent, "dog/1.png has transparent pixels"),
        (sixteen_bits, "dog/1.png has pixels of kind I;16"),
        (truncated, "dog/1.png is not an image that can be read"),
        (no_image, "dog/1.png is not an image that can be read"),
        (unknown_class, "eel is a class that train does not have; known: cat, dog"),
        (stray_file, "labels.txt lies outside the class folders"),
        (nested, "deeper is a folder within a class"),
        (empty_class, "eel is an empty class"),
        (no_train, "has no folder train"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, spoil, message):
    root = folder(tmp_path)
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        load("folder", root)
    assert "\n" not in str(caught.value)
