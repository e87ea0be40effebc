from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from gloro_fast.data import load
from gloro_fast.data.array_pickle import read
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


def python_3_pickle(protocol: int):
    return lambda pixels, labels: pickle.dumps({b"labels": labels, "data": pixels}, protocol=protocol)


def write(folder: Path, dump=python_2_pickle) -> Path:
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_bytes(dump(PIXELS[name], LABELS[name]))
    return folder


def test_the_fixture_is_what_numpy_itself_reads():
    content = pickle.loads(python_2_pickle(PIXELS["test_batch"], LABELS["test_batch"]), encoding="bytes")
    assert np.array_equal(content[b"data"], PIXELS["test_batch"])
    assert content[b"labels"] == LABELS["test_batch"]


@pytest.mark.parametrize(
    "dump", [python_2_pickle, *map(python_3_pickle, range(2, 6))], ids=["python2", "p2", "p3", "p4", "p5"]
)
def test_pickles_of_every_age_are_read(tmp_path, dump):
    folder = write(tmp_path / "cifar-10-batches-py", dump)
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


class Evaluated:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return eval, (self.code,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["label", "key", "top"])
def test_a_pickle_that_wants_to_run_something_is_refused_and_does_not(tmp_path, protocol, where):
    folder = write(tmp_path / "cifar-10-batches-py")
    trace = tmp_path / "ran"
    for weapon in (Shell(f"touch {trace}"), Evaluated(f"open({str(trace)!r}, 'w')")):
        content = {
            "label": {"labels": [weapon], "data": PIXELS["test_batch"]},
            "key": {weapon: 1},
            "top": weapon,
        }[where]
        (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(DataError, match="test_batch asks to load") as caught:
            load("cifar10", tmp_path)
        assert "\n" not in str(caught.value)
        assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray.__setstate__\n.",  # a way through a known name
        b"cnumpy.core.multiarray\nscalar\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
        b"cgloro_fast.data.array_pickle\nread\n.",
        b"\x82\x01.",  # an extension code
        b"Pid\n.",  # a persistent id
        b"\x80\x04\x8c\x05numpy\x8c\x03a\nb\x93.",  # a name of two lines
    ],
)
def test_other_ways_to_names_are_closed(tmp_path, content):
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"batch (asks to load|is truncated or no pickle)") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_the_stand_ins_cannot_be_changed_by_a_pickle(tmp_path):
    path = tmp_path / "batch"
    for name in (b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"):
        path.write_bytes(b"\x80\x02" + name + b"}U\x04nameU\x05valuesb.")  # BUILD with a dictionary
        with pytest.raises(DataError, match="no pickle"):
            read(path)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_batch_is_named(tmp_path, size):
    folder = write(tmp_path / "cifar-10-batches-py")
    path = folder / "data_batch_3"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="data_batch_3 is truncated or no pickle"):
        load("cifar10", tmp_path)


def save(path: Path, **content: object) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [0] * 4}, "no 'data' and 'labels'"),
        ({"data": PIXELS["test_batch"], "fine_labels": [0] * 4}, "CIFAR-100"),
        ({"data": PIXELS["test_batch"].astype(np.int64), "labels": [0] * 4}, "not one of unsigned bytes"),
        ({"data": PIXELS["test_batch"].astype(object), "labels": [0] * 4}, "not one of unsigned bytes"),
        ({"data": PIXELS["test_batch"][:, :3000], "labels": [0] * 4}, r"\(4, 3000\) where \(N, 3072\)"),
        ({"data": PIXELS["test_batch"], "labels": [0] * 3}, "each of its 4 images"),
        ({"data": PIXELS["test_batch"], "labels": [0.0] * 4}, "whole number"),
        ({"data": PIXELS["test_batch"], "labels": [0, 1, 10, 2]}, "label 10 of image 2 is outside 0 to 9"),
        ({"data": PIXELS["test_batch"], "labels": [0, -(10**30), 1, 2]}, "label -1 of image 1"),
    ],
)
def test_a_batch_with_something_else_in_it_is_named(tmp_path, content, message):
    path = write(tmp_path / "cifar-10-batches-py") / "test_batch"
    save(path, **content)
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", tmp_path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_batch_is_named(tmp_path):
    (write(tmp_path / "cifar-10-batches-py") / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        load("cifar10", tmp_path)
    with pytest.raises(DataError, match="no cifar-10-batches-py/data_batch_1 under"):
        load("cifar10", tmp_path.parent)
