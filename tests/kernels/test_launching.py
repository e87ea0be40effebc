"""Launches that are repeated: what Triton's launcher gets is what Triton itself would have given it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")
import triton
from gloro_fast.kernels import head_differences, launching, margin, margin_loss, minmax, product, statistics
from simulated_gpu import SimulatedGpu


class Recorder(SimulatedGpu):
    """A GPU that launches nothing and keeps what its launcher is given."""

    def __init__(self) -> None:
        super().__init__(86, run=False)
        self.given: list[tuple[Any, ...]] = []
        self.device = 1000  # of its own, since Triton keeps what it compiled, and for whom, by device

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 7000 + device

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        # Compiled once, for whichever is active then.
        return lambda *arguments: triton.runtime.driver.active.given.append((src.fn.__name__, *arguments))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(launching, "_are_on_gpu", lambda tensors: True)
    driver, recorder = triton.runtime.driver, Recorder()
    before = driver._active
    driver.set_active(recorder)
    yield recorder
    driver._active = before


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The launches that went through Triton."""
    names: list[str] = []
    run = triton.runtime.jit.JITFunction.run

    def launch(kernel: Any, *arguments: Any, **options: Any) -> Any:
        names.append(kernel.__name__)
        return run(kernel, *arguments, **options)

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    return names


def rows(dtype: torch.dtype = torch.float32, count: int = 64) -> tuple[Tensor, ...]:
    square, number = torch.ones(10, 10), torch.ones((), dtype=torch.float64)
    return torch.ones(count, 10, dtype=dtype), square, torch.ones(()), number


def of_losses(dtype: torch.dtype) -> None:
    logits, square, lipschitz, number = rows(dtype)
    labels = torch.zeros(64, dtype=torch.int64)
    found = margin_loss.margin_loss(logits, square, lipschitz, number, labels, 1, number)
    _, prediction, _, *shares, runner_up = found
    for grad in (torch.ones(64), torch.ones(()).expand(64)):
        margin_loss.margin_loss_backward(grad, logits, *shares, prediction, runner_up, square, lipschitz, number, True)


def of_margin() -> None:
    logits, square, lipschitz, number = rows()
    _, prediction, _, runner_up = margin.margin(logits, square, lipschitz, number)
    margin.margin_backward(torch.ones(64), logits, prediction, runner_up, square, lipschitz, number, False)


def of_minmax(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.ones(8, 6, 5, 5, dtype=dtype).contiguous(memory_format=memory_format)
    for bias in (None, torch.ones(6, dtype=dtype)):
        minmax.minmax(x, bias)
        mask = minmax.minmax_(x, bias)
        minmax.minmax_backward(x, mask, bias is not None)


def of_statistics() -> None:
    labels = torch.zeros(64, dtype=torch.int64)
    counts = statistics.count(labels, labels, labels == 0)
    for loss in (torch.ones(()), torch.ones((), dtype=torch.bfloat16)):
        table, cursor = torch.zeros(9, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
        statistics.record_(table, cursor, loss, counts[0], counts[0], torch.ones(()))


CALLS: dict[str, Callable[[], object]] = {
    "losses": lambda: of_losses(torch.float32),
    "losses of half logits": lambda: of_losses(torch.bfloat16),
    "margin": of_margin,
    "minmax": lambda: of_minmax(torch.float32, torch.contiguous_format),
    "half minmax": lambda: of_minmax(torch.float16, torch.contiguous_format),
    "minmax, channels_last": lambda: of_minmax(torch.float32, torch.channels_last),
    "head differences": lambda: head_differences.head_differences_backward(
        torch.ones(10, 10), torch.ones(10, 32), head_differences.head_differences(torch.ones(10, 32))
    ),
    "product": lambda: product.product_backward(torch.ones(()), torch.ones(7)),
    "statistics": of_statistics,
}


def shown(given: tuple[Any, ...]) -> list[Any]:
    """What a launcher is given, without where tensors lie and without hooks."""
    name, x, y, z, stream, function, packed, _, _, _, *arguments = given
    found = [argument if isinstance(argument, int | bool | type(None)) else "tensor" for argument in arguments]
    return [name, (x, y, z), stream, function, packed, found]


@pytest.mark.parametrize("name", CALLS)
def test_a_repeated_launch_is_the_first_one(gpu: Recorder, ordinary: list[str], name: str) -> None:
    CALLS[name]()
    first, gpu.given = gpu.given, []
    assert len(ordinary) == len(first) > 0
    CALLS[name]()
    again = gpu.given
    assert len(ordinary) <= len(first)  # bias or none, say, are launches of their own; none is ordinary twice
    assert len(again) == len(first)
    for before, now in zip(first, again, strict=True):
        *same, arguments = shown(before)
        assert shown(now)[:-1] == same
        for place, (one, other) in enumerate(zip(before[10:], now[10:], strict=True)):
            if isinstance(one, Tensor):
                assert isinstance(other, int)
                assert other % 16 == 0
            elif one is None:
                assert other in (None, 0)
            else:
                assert one == other, (arguments, place)


@pytest.fixture
def launch(gpu: Recorder, ordinary: list[str]) -> launching.Launch:
    """A launch that was made once, for seven factors."""
    made = launching.Launch(product.product_gradient, (1,), (7,), SIZE=8, num_warps=1)
    made(*torch.ones(3, 8))
    ordinary.clear()
    return made


def test_addresses_are_those_of_the_tensors(gpu: Recorder, ordinary: list[str], launch: launching.Launch) -> None:
    tensors = torch.ones(3, 8)
    launch(*tensors)
    assert gpu.given[-1][10:] == (*(tensor.data_ptr() for tensor in tensors), 7, 8)
    assert ordinary == []


def test_a_tensor_that_is_not_aligned_is_specialized_for(
    gpu: Recorder, ordinary: list[str], launch: launching.Launch
) -> None:
    grad, values, gradient = torch.ones(3, 8)
    launch(grad, torch.ones(9)[1:8], gradient)
    assert ordinary == ["product_gradient"]
    assert gpu.given[-1][5:7] != gpu.given[0][5:7] or gpu.given[-1][6] is not gpu.given[0][6]
    launch(grad, values, gradient)
    assert ordinary == ["product_gradient"]


def test_a_launch_whose_first_tensors_are_not_aligned_is_not_repeated(gpu: Recorder, ordinary: list[str]) -> None:
    made = launching.Launch(product.product_gradient, (1,), (7,), SIZE=8, num_warps=1)
    made(torch.ones(9)[1:], torch.ones(8), torch.ones(8))
    made(*torch.ones(3, 8))
    made(*torch.ones(3, 8))
    assert len(ordinary) == 2


def test_another_device_and_hooks_go_through_triton(
    gpu: Recorder, ordinary: list[str], launch: launching.Launch
) -> None:
    gpu.device = 1001
    launch(*torch.ones(3, 8))
    assert len(ordinary) == 1
    assert gpu.given[-1][4] == 8001
    gpu.device = 1000
    seen: list[Any] = []
    runtime = triton.knobs.runtime
    for chain in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        chain.add(seen.append)
        launch(*torch.ones(3, 8))
        chain.remove(seen.append)
    assert len(ordinary) == 3


def test_a_mode_sees_no_addresses(gpu: Recorder, ordinary: list[str], launch: launching.Launch) -> None:
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    tensors = torch.ones(3, 8).unbind()
    with Mode():
        launch(*tensors)
    assert len(ordinary) == 1


def test_tensors_on_the_cpu_are_not_repeated(
    gpu: Recorder, ordinary: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As doctor launches them to compile, in place of which a repeated launch would read the CPU's memory."""
    monkeypatch.undo()
    made = launching.Launch(product.product_gradient, (1,), (7,), SIZE=8, num_warps=1)
    for _ in range(3):
        made(*torch.ones(3, 8))
    assert all(isinstance(given[10], Tensor) for given in gpu.given)


def test_what_no_cuda_driver_compiled_is_not_repeated(gpu: Recorder) -> None:
    """As AMD's, whose binaries differ by more, and the interpreter, which compiles nothing."""
    for compiled in (None, SimpleNamespace(metadata=SimpleNamespace(target=SimpleNamespace(backend="hip")))):
        calls: list[object] = []

        class Kernel:
            def __getitem__(self, grid: object) -> Callable[..., object]:
                return lambda *arguments, **options: calls.append(grid) or compiled  # noqa: B023

        made = launching.Launch(Kernel(), (1,))
        for _ in range(3):
            made(torch.ones(8))
        assert len(calls) == 3


def test_plans_are_made_once_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    current: list[object] = [None]

    @contextlib.contextmanager
    def device(place: object) -> Iterator[None]:
        current.append(place)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)

    @launching.planned
    def plan(rows: int) -> int:
        made.append((rows, current[-1]))
        return len(made)

    zero, one = torch.device("cuda", 0), torch.device("cuda", 1)
    assert [plan(3, zero), plan(3, zero), plan(3, one), plan(4, one)] == [1, 1, 2, 3]
    assert made == [(3, zero), (3, one), (4, one)]
