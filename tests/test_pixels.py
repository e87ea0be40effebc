from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from gloro_fast.data import check_shape, to_float
from gloro_fast.errors import DataError


def test_bytes_become_the_nearest_float32_to_v_over_255():
    given = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    exact = (np.arange(256) / 255).astype(np.float32).reshape(1, 1, 16, 16)
    found = to_float(given)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), exact)
    assert given[0, 0, 15, 15] == 255  # untouched


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_in_the_unit_interval_pass_without_a_warning(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = to_float(torch.tensor([0.0, 0.5, 1.0], dtype=dtype))
    assert found.dtype == torch.float32
    assert found.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_pixels_are_refused(bad):
    with pytest.raises(DataError, match="1 of 3 pixels are NaN or infinite"):
        to_float(torch.tensor([0.0, bad, 1.0]))


@pytest.mark.parametrize("bad", [-0.25, 1.5, 255.0])
def test_pixels_outside_the_unit_interval_are_warned_of_and_kept(bad):
    with pytest.warns(UserWarning, match=r"outside \[0, 1\]") as caught:
        found = to_float(torch.tensor([0.5, bad]))
    assert len(caught) == 1
    assert found.tolist() == [0.5, bad]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_other_types_are_refused(dtype):
    with pytest.raises(DataError, match=str(dtype).removeprefix("torch.")):
        to_float(torch.zeros(2, dtype=dtype))


def test_an_empty_batch_is_no_fault_of_its_pixels():
    assert to_float(torch.zeros(0, 1, 2, 2)).shape == (0, 1, 2, 2)


def test_a_wrong_image_size_names_both_shapes():
    check_shape(torch.zeros(5, 1, 28, 28), (1, 28, 28))
    with pytest.raises(DataError, match=r"1x32x32 but the net takes 1x28x28.*input_shape=\(1, 32, 32\)"):
        check_shape(torch.zeros(5, 1, 32, 32), (1, 28, 28))


def test_a_missing_batch_dimension_is_named():
    with pytest.raises(DataError, match="no batch dimension"):
        check_shape(torch.zeros(1, 28, 28), (1, 28, 28))
