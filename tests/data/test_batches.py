from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gloro_fast.data import Batches, Split, split_validation
from gloro_fast.errors import ConfigError, DataError


def numbered(count: int, *, floats: bool = False) -> Split:
    """Make a split in which image i has pixel i (mod 256) and label i."""
    images = torch.arange(count).reshape(-1, 1, 1, 1).to(torch.uint8)
    return Split(images.float() / 255 if floats else images, torch.arange(count))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_file_order_without_shuffling_and_the_partial_batch_is_kept():
    batches = Batches(numbered(10), 4, shuffle=False)
    parts = list(batches)
    assert len(batches) == 3
    assert [labels.tolist() for _, labels in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert parts[0][0].dtype == torch.float32
    assert torch.equal(parts[2][0].flatten() * 255, torch.tensor([8.0, 9.0]))


@pytest.mark.parametrize("floats", [False, True])
def test_images_and_labels_stay_together(floats):
    for images, labels in Batches(numbered(50, floats=floats), 7, shuffle=True):
        assert torch.equal(images.flatten(), labels.float() / 255)


def test_an_epoch_has_every_image_once_and_a_new_order_each_time():
    batches = Batches(numbered(50), 8, shuffle=True, generator=seeded())
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()


def test_the_seed_decides_the_order():
    split = numbered(50)
    orders = [Batches(split, 8, shuffle=True, generator=seeded(seed)).order().tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert Batches(split, 8, shuffle=True).order(seeded(1)).tolist() == orders[0]


def test_no_shuffling_draws_nothing():
    generator = seeded()
    before = generator.get_state()
    list(Batches(numbered(10), 4, shuffle=False, generator=generator))
    assert torch.equal(generator.get_state(), before)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 40), done=st.integers(0, 40))
def test_resuming_gives_exactly_the_rest(count, batch_size, done):
    batches = Batches(numbered(count), min(batch_size, count), shuffle=True)
    done = min(done, len(batches))
    order = batches.order(seeded())
    whole = list(batches.epoch(order))
    rest = list(batches.epoch(order, start=done))
    assert len(whole) == len(batches)
    assert len(rest) == len(whole) - done
    for (images, labels), (same_images, same_labels) in zip(whole[done:], rest, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def test_a_batch_larger_than_the_data_set_is_refused():
    message = "batch size 512 is larger than the data set's 300 images; use --batch-size 300 or less"
    with pytest.raises(ConfigError, match=message):
        Batches(numbered(300), 512, shuffle=True)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="batch size 0"):
        Batches(numbered(3), 0, shuffle=True)


def test_an_order_of_another_data_set_is_refused_before_the_first_batch():
    batches = Batches(numbered(10), 4, shuffle=True)
    repeated = torch.tensor([0, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    for order in (torch.arange(9), torch.arange(1, 11), torch.arange(10.0), repeated):
        with pytest.raises(ConfigError, match="not a permutation of the 10 images"):
            batches.epoch(order)


@pytest.mark.parametrize("start", [-1, 4])
def test_a_start_outside_the_epoch_is_refused(start):
    batches = Batches(numbered(10), 4, shuffle=False)
    with pytest.raises(ConfigError, match="epoch of 3 batches"):
        batches.epoch(batches.order(), start)


def test_nan_pixels_are_refused():
    with pytest.raises(DataError, match="NaN"):
        Batches(Split(torch.full((2, 1, 1, 1), float("nan")), torch.tensor([0, 1])), 1, shuffle=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bits():
    split = Split(torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8), torch.arange(100))
    order = torch.randperm(100)
    on_cpu = Batches(split, 32, shuffle=True).epoch(order)
    on_gpu = Batches(split, 32, shuffle=True, device="cuda").epoch(order)
    for (images, labels), (gpu_images, gpu_labels) in zip(on_cpu, on_gpu, strict=True):
        assert gpu_images.is_cuda
        assert gpu_labels.is_cuda
        assert torch.equal(gpu_images.cpu(), images)
        assert torch.equal(gpu_labels.cpu(), labels)


def test_validation_takes_distinct_images_and_repeats_itself():
    train, validation = split_validation(numbered(100), 20, seed=3)
    again = split_validation(numbered(100), 20, seed=3)[1]
    other = split_validation(numbered(100), 20, seed=4)[1]
    assert sorted(train.labels.tolist() + validation.labels.tolist()) == list(range(100))
    assert len(validation) == 20
    assert torch.equal(validation.images.flatten().long(), validation.labels)
    assert torch.equal(validation.labels, again.labels)
    assert not torch.equal(validation.labels, other.labels)


@pytest.mark.parametrize("size", [-1, 0, 10, 11])
def test_a_validation_split_must_leave_both_parts_something(size):
    with pytest.raises(ConfigError, match=f"validation split of {size} cannot be taken from 10"):
        split_validation(numbered(10), size, seed=0)
