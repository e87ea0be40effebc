import pytest
import torch

from gloro_fast.cli.options import usable_device


@pytest.mark.parametrize(("there_is_one", "expected"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_taken_where_there_is_one_and_no_device_is_named(monkeypatch, there_is_one, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_is_one)
    assert usable_device(None) == expected
    assert usable_device("cpu") == "cpu"
