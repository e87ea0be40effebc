"""What a recorder tells CUDA, on a machine without: pools of memory, streams, and what a capture that fails leaves."""

import gc
from contextlib import contextmanager

import pytest
import torch

from gloro_fast.train.replay import CudaRecorder, Replayed


class Stream:
    device_index = 0

    def __init__(self, name):
        self.name, self.waits = name, []

    def wait_stream(self, other):
        self.waits.append(other.name)


class Cuda:
    """As torch.cuda, of which a pool is refused when its graphs are gone, as if a tensor of it were left."""

    def __init__(self):
        self.stream_now = self.default = Stream("default")
        self.pools = 0
        self.users = {}
        self.begun = None
        self.generator_is_captured = False

    def capture_begin(self, pool):
        if self.begun is not None:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        if self.users.get(pool) == 0:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        self.users[pool] = self.users.get(pool, 0) + 1
        self.begun = pool
        self.generator_is_captured = True

    def capture_end(self):
        self.begun, self.generator_is_captured = None, False


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()

    class Graph:
        pool = None

        def capture_begin(self, capture_error_mode):
            cuda.capture_begin(None)

        def capture_end(self):
            cuda.capture_end()

        def replay(self):
            pass

        def __del__(self):
            if self.pool is not None:
                cuda.users[self.pool] -= 1

    @contextmanager
    def stream(given):
        before, cuda.stream_now = cuda.stream_now, given
        try:
            yield
        finally:
            cuda.stream_now = before

    class Capture:
        def __init__(self, graph, pool, stream, capture_error_mode):
            self.graph, self.pool, self.stream = graph, pool, stream

        def __enter__(self):
            cuda.stream_now = self.stream
            cuda.capture_begin(self.pool)

        def __exit__(self, kind, *_):
            if kind is not None:
                raise RuntimeError("operation failed due to a previous error during capture")
            cuda.capture_end()
            self.graph.pool = self.pool
            cuda.stream_now = cuda.default

    @contextmanager
    def device(_):
        yield

    def handle():
        cuda.pools += 1
        return (0, cuda.pools)

    def end_allocate_to_pool(index, pool):
        if cuda.begun != pool:
            raise RuntimeError("not currently recording to mempool_id")
        cuda.begun = None

    for name, value in {
        "Stream": lambda device: Stream("recorder"),
        "CUDAGraph": Graph,
        "stream": stream,
        "graph": Capture,
        "device": device,
        "graph_pool_handle": handle,
        "current_stream": lambda device: cuda.stream_now,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocate_to_pool, raising=False)
    return cuda


@pytest.fixture
def recorder(cuda):
    return CudaRecorder(torch.device("cuda", 0))


def nothing():
    pass


def fail():
    raise ValueError("planted")


def test_graphs_share_a_pool(recorder, cuda):
    replays = [recorder.record(nothing) for _ in range(3)]
    assert cuda.users == {(0, 1): 3}
    del replays


def test_a_pool_of_which_all_graphs_are_gone_is_not_used_again(recorder, cuda):
    replay = recorder.record(nothing)
    del replay
    gc.collect()
    replay = recorder.record(nothing)
    assert sorted(cuda.users.values()) == [0, 1]
    other = recorder.record(nothing)
    assert sorted(cuda.users.values()) == [0, 2]
    del replay, other


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_capture_that_fails_leaves_nothing_behind(recorder, cuda, error):
    kept = recorder.record(nothing)

    def work():
        raise error("planted")

    with pytest.raises(error, match="planted"):
        recorder.record(work)
    assert cuda.stream_now is cuda.default
    assert cuda.begun is None
    assert not cuda.generator_is_captured
    after = recorder.record(nothing)
    del after
    gc.collect()
    assert recorder.record(nothing)
    del kept


def test_the_culprit_is_named(recorder, cuda):
    tensor = torch.zeros(1)
    calls = []

    def work():
        calls.append(1)
        tensor.sin()
        with torch.profiler.record_function("a step"):
            if len(calls) > 2:
                tensor.cos()
                fail()

    replayed = Replayed(work, recorder, "the work")
    replayed()
    replayed()
    with (
        pytest.warns(RuntimeWarning, match=r"the work cannot be captured .*\(aten.cos.default: planted\)"),
        pytest.raises(ValueError, match="planted"),
    ):
        replayed()


def test_the_current_stream_waits_for_work_that_failed(recorder, cuda):
    with pytest.raises(ValueError, match="planted"), recorder.beside():
        fail()
    assert cuda.default.waits == ["recorder"]
