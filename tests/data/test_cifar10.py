from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from gloro_fast.data import cifar10, load
from gloro_fast.errors import DataError

COUNT = 4
NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
RNG = np.random.default_rng(0)
PIXELS = {name: RNG.integers(0, 256, (COUNT, 3072), np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(0, 10, COUNT).tolist() for name in NAMES}


def python_2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """Write what Python 2's cPickle wrote for the published files: protocol 2, byte strings, old NumPy names."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + number(1) + b"".join(map(number, pixels.shape)) + b"\x86" + dtype
    array += b"\x89" + text(pixels.tobytes()) + b"tb"
    body = text(b"batch_label") + text(b"training batch 1 of 5")
    body += text(b"labels") + b"](" + b"".join(map(number, labels)) + b"e"
    body += text(b"data") + array
    body += text(b"filenames") + b"](" + text(b"a.png") * len(labels) + b"e"
    return b"\x80\x02}(" + body + b"u."


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Files in the format of the published ones, taken for them."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    assert set(NAMES) == set(cifar10._MD5)
    for name in NAMES:
        content = python_2_pickle(PIXELS[name], LABELS[name])
        (folder / name).write_bytes(content)
        monkeypatch.setitem(cifar10._MD5, name, hashlib.md5(content).hexdigest())
    return folder


def test_the_fixture_is_what_numpy_itself_reads():
    content = pickle.loads(python_2_pickle(PIXELS["test_batch"], LABELS["test_batch"]), encoding="bytes")
    assert np.array_equal(content[b"data"], PIXELS["test_batch"])
    assert content[b"labels"] == LABELS["test_batch"]


def test_the_published_files_are_read(tmp_path, folder):
    for data_dir in (tmp_path, folder):
        data = load("cifar10", data_dir)
        assert data.input_shape == (3, 32, 32)
        assert data.class_names[:2] == ("airplane", "automobile")
        expected = np.concatenate([PIXELS[name] for name in NAMES[:5]]).reshape(-1, 3, 32, 32)
        assert np.array_equal(data.train.images.numpy(), expected)
        assert data.train.labels.tolist() == [label for name in NAMES[:5] for label in LABELS[name]]
        assert np.array_equal(data.test.images.numpy(), PIXELS["test_batch"].reshape(-1, 3, 32, 32))
        assert data.test.labels.tolist() == LABELS["test_batch"]


class Shell:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_wants_to_run_something_is_refused_and_does_not(tmp_path, folder, protocol):
    trace = tmp_path / "ran"
    content = {"labels": [Shell(f"touch {trace}")], "data": PIXELS["test_batch"]}
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match="test_batch is not the published file") as caught:
        load("cifar10", tmp_path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_batch_is_named(tmp_path, folder, size):
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="data_batch_3 is not the published file"):
        load("cifar10", tmp_path)


def test_a_batch_under_another_name_is_named(tmp_path, folder):
    (folder / "data_batch_2").write_bytes((folder / "data_batch_3").read_bytes())
    with pytest.raises(DataError, match="data_batch_2 is not the published file"):
        load("cifar10", tmp_path)


def test_a_missing_or_unreadable_batch_is_named(tmp_path, folder):
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        load("cifar10", tmp_path)
    (folder / "data_batch_4").mkdir()
    with pytest.raises(DataError, match="data_batch_4 cannot be read"):
        load("cifar10", tmp_path)
    with pytest.raises(DataError, match="no cifar-10-batches-py/data_batch_1 under"):
        load("cifar10", tmp_path.parent)
