"""Work that is done again and again, as one replay of a CUDA graph.

A step of 2C2F is some hundred launches of a few microseconds each, and Python takes longer for one than the GPU: on an
H100 the step took 6.7 ms of which the GPU worked 0.63; captured as one graph it took 0.59.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What allocates, compiles or plans when it first runs has then done so; torch.cuda.make_graphed_callables takes three.
_EAGER_CALLS = 2


class Recorder(Protocol):
    """What records work on a device without doing it."""

    def beside(self) -> Any:
        """Return a context in which work is done eagerly on the stream on which it will be recorded."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` does on the device, without doing it, and return what does it."""


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: they are replayed one after the other, never at once.

    Args:
        device: of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Never the default stream: a graph cannot be recorded there, nor wait for it.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work on the recorder's own stream; the current one waits for it afterwards."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record ``work`` as a CUDA graph.

        Raises:
            RuntimeError: it waits for the GPU, or does something else that a graph cannot hold.
        """
        if not self._graphs:
            # torch refuses a pool of which every graph is gone and a tensor is left.
            self._begin_pool()
        graph = torch.cuda.CUDAGraph()
        # Other threads, that save a checkpoint say, go on meanwhile.
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        failure: BaseException | None = None
        try:
            # The stream is put back from out here, since a capture that fails leaves its own.
            with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)), capture:
                try:
                    work()
                except BaseException as error:
                    failure = error
                    raise
        except BaseException as error:
            self._recover()
            raise failure or error from None  # else what the end of the capture makes of it
        self._graphs.add(graph)
        return graph.replay

    def _begin_pool(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs = WeakSet()

    def _recover(self) -> None:
        """End what torch before 2.14 leaves begun where a capture fails.

        That is the pool, without which no other is captured, nor the cache emptied, and the generator, which then
        refuses to draw.
        """
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
        self._begin_pool()
        empty = torch.cuda.CUDAGraph()
        with suppress(RuntimeError), warnings.catch_warnings(action="ignore"), torch.cuda.stream(self._stream):
            empty.capture_begin(capture_error_mode="thread_local")
            empty.capture_end()


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records work on ``device``; None where nothing does."""
    return CudaRecorder(device) if device.type == "cuda" else None


class Replayed:
    """Work on tensors that stay where they are: done eagerly at first, then recorded, then replayed.

    All calls do the work, the first ones and the one that records included.

    Args:
        work: what to do; nothing that it reads from Python may change between calls.
        recorder: what records it; None to do it eagerly ever after.
        name: what to call it in a warning.

    Attributes:
        why_eager: the reason in one line why it could not be recorded; empty otherwise.
    """

    def __init__(self, work: Callable[[], None], recorder: Recorder | None, name: str) -> None:
        self._work, self._recorder, self._name = work, recorder, name
        self._eager_calls = _EAGER_CALLS
        self._replay: Callable[[], None] | None = None
        self.why_eager = ""

    @property
    def is_recorded(self) -> bool:
        """Whether calls are replays now."""
        return self._replay is not None

    def __call__(self) -> None:
        """Do the work.

        Warns:
            RuntimeWarning: once, if it cannot be recorded: names the operation.
        """
        if self._replay is None and self._recorder is not None and not self._eager_calls:
            self._record(self._recorder)
        if self._replay is not None:
            self._replay()
        elif self._recorder is None:
            self._work()
        else:
            self._eager_calls -= 1
            with self._recorder.beside():
                self._work()

    def _record(self, recorder: Recorder) -> None:
        try:
            self._replay = recorder.record(self._work)
        except Exception as error:  # Whatever an operation raises that does not like to be recorded.
            self._recorder = None
            self.why_eager = f"{_culprit(recorder, self._work)}: {(str(error).splitlines() or [repr(error)])[0]}"
            warnings.warn(
                f"{self._name} cannot be captured as a CUDA graph and runs eagerly, slower, with the same results "
                f"({self.why_eager})",
                RuntimeWarning,
                stacklevel=4,
            )


def _culprit(recorder: Recorder, work: Callable[[], None]) -> str:
    """Record once more, which does nothing to the device, to name the operation that fails."""
    seen = _LastOperation()
    try:
        with seen:
            recorder.record(work)
    except Exception:
        return seen.name
    return "an operation"


class _LastOperation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = "an operation"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "profiler":  # It marks the end of an optimizer's step, failed or not.
            self.name = str(func)
        return func(*args, **(kwargs or {}))
