import pytest
import torch

from gloro_fast.errors import CheckpointError
from gloro_fast.files import tensor_file

TENSORS = {
    "float": torch.tensor([1.5, float("nan"), float("-inf"), -0.0]),
    "scalar": torch.tensor(3.25, dtype=torch.float64),
    "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "flag": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "strided": torch.arange(12.0).reshape(3, 4).T,
    "channels_last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
}


def test_round_trip_of_bits(tmp_path):
    document = {"epoch": 3, "loss": 0.1 + 0.2, "rows": [{"lam": None}]}
    tensor_file.write(tmp_path / "x", "model", TENSORS, document)
    tensors, found = tensor_file.read(tmp_path / "x", "model")
    assert found == document
    assert tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert tensors[name].dtype == expected.dtype
        assert tensors[name].is_contiguous()
        torch.testing.assert_close(tensors[name], expected.contiguous(), rtol=0, atol=0, equal_nan=True)


def test_another_kind(tmp_path):
    tensor_file.write(tmp_path / "x", "model", {}, {})
    with pytest.raises(CheckpointError, match="holds gloro_fast model, not a gloro_fast checkpoint"):
        tensor_file.read(tmp_path / "x", "checkpoint")


def test_every_byte_counts(tmp_path):
    """Whatever byte of the file changes, it is not read as if nothing had happened."""
    path = tmp_path / "x"
    tensor_file.write(path, "model", {"weight": torch.tensor([1.0, 2.0])}, {"epsilon": 0.3})
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            tensors, document = tensor_file.read(path, "model")
        except CheckpointError:
            continue
        # The note of what wrote the file is the one thing that decides nothing.
        assert torch.equal(tensors["weight"], torch.tensor([1.0, 2.0])), position
        assert document == {"epsilon": 0.3}


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*No such file or directory"):
        tensor_file.write(tmp_path / "no" / "x", "model", {}, {})
