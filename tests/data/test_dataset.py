from __future__ import annotations

import pytest
import torch

from gloro_fast.data import DataSet, Split
from gloro_fast.errors import DataError


def split(count: int = 4, shape: tuple[int, ...] = (1, 2, 2), labels: list[int] | None = None) -> Split:
    return Split(
        torch.zeros(count, *shape, dtype=torch.uint8),
        torch.tensor(labels if labels is not None else [0, 1] * (count // 2)),
    )


def test_a_data_set_knows_its_shape_and_classes():
    data = DataSet("toy", split(4, (3, 5, 7)), split(2, (3, 5, 7)), ("a", "b", "c"))
    assert data.input_shape == (3, 5, 7)
    assert data.num_classes == 3
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.note == ""


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 2, dtype=torch.int32), torch.tensor([0, 1]), "int32"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1]), "float64"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), r"\(N, C, H, W\)"),
        (torch.zeros(2, 1, 0, 2, dtype=torch.uint8), torch.tensor([0, 1]), r"\(2, 1, 0, 2\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0.0, 1.0]), "float32"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.int32), "int32"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), "2 images"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([[0], [1]]), "2 images"),
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "no images"),
    ],
)
def test_a_split_refuses_what_it_cannot_be(images, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        Split(images, labels)
    assert "\n" not in str(caught.value)


def test_float32_images_are_kept():
    images = torch.rand(2, 1, 2, 2)
    assert Split(images, torch.tensor([0, 1])).images is images


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
def test_labels_must_name_a_class(labels):
    with pytest.raises(DataError, match=r"toy, test split: label (2 of image 1|-1 of image 0) is outside 0 to 1"):
        DataSet("toy", split(), split(2, labels=labels), ("a", "b"))


def test_the_splits_must_agree_in_shape():
    with pytest.raises(DataError, match=r"\(1, 2, 2\) but test images \(1, 3, 3\)"):
        DataSet("toy", split(), split(shape=(1, 3, 3)), ("a", "b"))


def test_one_class_is_too_few():
    with pytest.raises(DataError, match="at least 2"):
        DataSet("toy", split(labels=[0] * 4), split(labels=[0] * 4), ("a",))
