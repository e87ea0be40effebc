"""Splits that a GPU has no room for come batch by batch, in the same order, the next one on its way."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from gloro_fast.data import Batches, Split, streaming
from gloro_fast.data import batches as batches_module


class FakeCopier:
    """Copies on the CPU, with two buffers as there are of pinned memory."""

    def __init__(self, images, batch_size, device):
        self.buffers = [torch.zeros(batch_size, *images.shape[1:], dtype=images.dtype) for _ in range(2)]
        self.turn = 0
        self.started = self.finished = self.most_on_the_way = 0

    def start(self, images, chosen):
        buffer = self.buffers[self.turn][: len(chosen)]
        self.turn = 1 - self.turn
        torch.index_select(images, 0, chosen, out=buffer)
        self.started += 1
        self.most_on_the_way = max(self.most_on_the_way, self.started - self.finished)
        return buffer

    def finish(self, started):
        self.finished += 1
        return started.clone()


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (23, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(3, (23,), generator=generator))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_streamed_batches_are_those_of_a_resident_split(split, monkeypatch, start, kind):
    if kind == torch.float32:
        split = Split(split.images / 255, split.labels)
    resident = Batches(split, 5, shuffle=True)
    assert resident.is_resident
    monkeypatch.setattr(batches_module, "has_room", lambda *arguments: False)
    copiers = []
    monkeypatch.setattr(
        batches_module, "CudaCopier", lambda *arguments: copiers.append(FakeCopier(*arguments)) or copiers[-1]
    )
    streamed = Batches(split, 5, shuffle=True)
    assert not streamed.is_resident
    order = resident.order(torch.Generator().manual_seed(3))
    expected, found = list(resident.epoch(order, start)), list(streamed.epoch(order, start))
    assert len(found) == len(expected) == 5 - start
    for mine, its in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, its, strict=True))
    assert copiers[0].most_on_the_way == min(2, 5 - start)


def test_images_are_resident_where_they_take_half_of_the_free_memory_at_most(monkeypatch):
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    device = torch.device("cuda", 0)
    for free, room in ((1280, True), (1279, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert streaming.has_room(images, device) is room
    assert streaming.has_room(images, torch.device("cpu"))


def test_images_that_are_wanted_once_are_not_moved_to_a_gpu_together(split, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40, 1 << 40))
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert streaming.has_room(split.images, gpu)
    assert not streaming.has_room(split.images, gpu, once=True)
    assert streaming.has_room(split.images, cpu, once=True)
    asked = []
    monkeypatch.setattr(batches_module, "has_room", lambda images, device, once: asked.append(once) or True)
    Batches(split, 5, shuffle=False, once=True)
    Batches(split, 5, shuffle=False)
    assert asked == [True, False]


class Event:
    """Demands that a copy is waited for before its memory is filled for another."""

    def __init__(self):
        self.pending = False
        self.waits = 0

    def record(self, stream):
        assert not self.pending
        self.pending = True

    def synchronize(self):
        self.pending = False
        self.waits += 1


def test_pinned_memory_is_filled_again_when_its_copy_is_over(split, monkeypatch):
    """On the CPU a copy "to the device" is the pinned memory itself, and so shows what overwrites it."""
    empty, waited, recorded = torch.empty, [], []
    current = SimpleNamespace(wait_event=waited.append)
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **rest: empty(*size, **rest))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: recorded.append(stream))
    pieces = torch.split(torch.arange(23).flip(0), 5)
    copier = streaming.CudaCopier(split.images, 5, torch.device("cpu"))
    for images, chosen in streaming.stream(split.images, pieces, copier):
        assert torch.equal(images, split.images[chosen])
    assert len(waited) == 5
    assert recorded == [current] * 5
    assert [event.waits for event in copier._copied] == [3, 2]
