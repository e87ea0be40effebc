from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gloro_fast.data import load
from gloro_fast.errors import DataError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (30, 5, 4), np.uint8), "t10k": RNG.integers(0, 256, (20, 5, 4), np.uint8)}
LABELS = {"train": (np.arange(30) % 10).astype(np.uint8), "t10k": (np.arange(20) % 10).astype(np.uint8)}


def write(folder: Path, *, zipped: bool) -> Path:
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", IMAGES[part]), ("labels-idx1", LABELS[part])):
            path, content = folder / f"{part}-{kind}-ubyte", idx(array)
            if zipped:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "MNIST" / "raw", zipped=False)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_torchvisions_layout_is_read(tmp_path, name, folder, zipped):
    raw = write(tmp_path / folder / "raw", zipped=zipped)
    for data_dir in (tmp_path, tmp_path / folder, raw, str(tmp_path)):
        data = load(name, data_dir)
        assert data.name == name
        assert data.input_shape == (1, 5, 4)
        assert data.num_classes == 10
        assert np.array_equal(data.train.images[:, 0].numpy(), IMAGES["train"])
        assert np.array_equal(data.test.images[:, 0].numpy(), IMAGES["t10k"])
        assert data.train.labels.tolist() == LABELS["train"].tolist()
        assert data.test.labels.tolist() == LABELS["t10k"].tolist()


def test_one_is_not_taken_for_the_other(tmp_path):
    write(tmp_path / "FashionMNIST" / "raw", zipped=False)
    with pytest.raises(DataError, match="no MNIST/raw/train-images"):
        load("mnist", tmp_path)


def damaged(content: bytes, how: str) -> bytes:
    match how:
        case "truncated":
            return content[:-1]
        case "trailing bytes":
            return content + b"\0"
        case "header":
            return content[:6]
        case "starts with 00000803":
            return b"\0\0\x08\x03" + content[4:]
        case "starts with 00000d01":  # floats
            return b"\0\0\x0d\x01" + content[4:]
        case "terabytes":
            return content[:4] + b"\xff\xff\xff\xff" + content[8:]
        case "starts with nothing":
            return b""
    raise ValueError(how)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "truncated: its header states 30 bytes, 29 were found"),
        ("trailing bytes", "trailing bytes"),
        ("header", "truncated within its header"),
        ("starts with 00000803", "starts with 00000803 where 00000801"),
        ("starts with 00000d01", "starts with 00000d01"),
        ("terabytes", "truncated: its header states 4294967295 bytes"),
        ("starts with nothing", "starts with nothing"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(raw, how, message, zipped):
    path = raw / "train-labels-idx1-ubyte"
    content = damaged(path.read_bytes(), how)
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", raw)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_truncated_gzip_file_is_named(tmp_path, cut):
    raw = write(tmp_path / "raw", zipped=True)
    path = raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=f"{path.name} is a truncated or damaged gzip file"):
        load("mnist", raw)


def test_a_flipped_bit_in_a_gzip_file_is_noticed(tmp_path):
    raw = write(tmp_path / "raw", zipped=True)
    path = raw / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the check sum
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged gzip"):
        load("mnist", raw)


def test_counts_must_agree(raw):
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS["t10k"][:-1]))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte holds 19 labels but t10k-images-idx3-ubyte 20 images"):
        load("mnist", raw)


def test_a_label_out_of_range_is_named(raw):
    labels = LABELS["train"].copy()
    labels[7] = 10
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: label 10 of image 7 is outside 0 to 9"):
        load("mnist", raw)


def test_a_missing_file_is_named(raw):
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.* is missing"):
        load("mnist", raw)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        load("mnist", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"mnist needs --data-dir"):
        load("mnist")
    with pytest.raises(DataError, match=f"no MNIST/raw/.* under {tmp_path}"):
        load("mnist", tmp_path)


def test_the_real_mnist(real_data):
    data = load("mnist", real_data / "mnist")
    assert data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    mean = data.train.images.double().mean() / 255
    assert torch.isclose(mean, torch.tensor(0.1307, dtype=torch.float64), atol=1e-4)
