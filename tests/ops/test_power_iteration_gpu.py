"""Which tensors the CUDA kernels of power iteration are given, and how often a training step calls them."""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from power_iteration_layers import MIXED, conv, draw
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast import GloRoNet
from gloro_fast.losses import TradesLoss
from gloro_fast.models.architectures import build
from gloro_fast.native import dispatch, extension
from gloro_fast.ops import Geometry, power_iteration, power_iteration_gpu
from gloro_fast.ops.power_iteration_op import layer_numbers, power_iteration_reference

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")

GEOMETRIES = [Geometry((2, 5, 4), (1, 2), ((1, 0), (2, 1)), (1, 1)), Geometry((9,))]
SHAPES = [(3, 2, 3, 3), (4, 9)]


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.keywords: dict[str, dict[str, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        self.keywords[str(func)] = kwargs
        return func(*args, **(kwargs or {}))


def run_on_gpu(dtype: torch.dtype = torch.float32, iterate: torch.dtype = torch.float32) -> tuple[Counter[str], Tensor]:
    """Trace a call with tensors of a GPU that is not there."""
    with FakeTensorMode(), torch.no_grad(), Calls() as calls:
        weights = [torch.empty(shape, device="cuda", dtype=dtype) for shape in SHAPES]
        v = [torch.empty(geometry.input_shape, device="cuda", dtype=iterate) for geometry in GEOMETRIES]
        sigma, v_new, u = power_iteration(weights, v, GEOMETRIES, 5)
    assert all(t.device.type == "cuda" for t in (sigma, *v_new, *u))
    assert [t.shape for t in v_new] == [t.shape for t in v]
    assert u[0].shape == (3, 4, 3)
    return calls.counts, sigma


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_layers_go_to_one_call(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "why_not", lambda op: None)
    counts, sigma = run_on_gpu(dtype)
    assert counts["gloro_fast.power_iteration.default"] == 1
    assert counts["aten.convolution.default"] == 0
    assert sigma.dtype == torch.float32


def test_the_share_of_the_multiprocessors_comes_to_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "why_not", lambda op: None)
    with FakeTensorMode(), torch.no_grad(), Calls() as calls:
        weights = [torch.empty(shape, device="cuda") for shape in SHAPES]
        v = [torch.empty(geometry.input_shape, device="cuda") for geometry in GEOMETRIES]
        power_iteration(weights, v, GEOMETRIES, 5, multiprocessors=16)
    assert calls.keywords["gloro_fast.power_iteration.default"] == {"multiprocessors": 16}


@pytest.fixture
def in_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Where plain PyTorch was called, whose conversions do not run on a GPU that is not there."""
    called: list[torch.device] = []

    def plain(weights: list[Tensor], v: list[Tensor], *_: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        called.append(weights[0].device)
        return weights[0].new_empty(2), v, [torch.empty(3, 4, 3, device="cuda")]

    monkeypatch.setattr(sys.modules["gloro_fast.ops.power_iteration_op"], "power_iteration_reference", plain)
    return called


def test_float64_runs_in_plain_pytorch(monkeypatch: pytest.MonkeyPatch, in_plain_pytorch: list[torch.device]) -> None:
    monkeypatch.setattr(dispatch, "why_not", lambda op: None)
    counts, _ = run_on_gpu(torch.float64, torch.float64)
    assert counts["gloro_fast.power_iteration.default"] == 0
    assert len(in_plain_pytorch) == 1


def test_a_build_without_cuda_runs_plain_pytorch_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, in_plain_pytorch: list[torch.device]
) -> None:
    monkeypatch.setattr(dispatch, "why_not", lambda op: "there is no kernel here")
    monkeypatch.setattr(dispatch, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for calls in (1, 2):
            counts, _ = run_on_gpu()
            assert counts["gloro_fast.power_iteration.default"] == 0
            assert len(in_plain_pytorch) == calls
    messages = [str(w.message) for w in caught if "power_iteration" in str(w.message)]
    assert len(messages) == 1
    assert "there is no kernel here" in messages[0]


def test_a_gpu_that_refuses_the_launch_runs_plain_pytorch_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, in_plain_pytorch: list[torch.device]
) -> None:
    asked: list[int] = []

    def refusal(numbers: tuple[int, ...], index: int) -> str:
        asked.append(index)
        return "the GPU refuses a cooperative launch"

    monkeypatch.setattr(dispatch, "why_not", lambda op: None)
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(power_iteration_gpu, "_refusal", refusal)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for dtype in (torch.float32, torch.bfloat16):
            counts, _ = run_on_gpu(dtype)
            assert counts["gloro_fast.power_iteration.default"] == 0
    assert len(in_plain_pytorch) == 2
    assert asked == [0] * 2
    messages = [str(w.message) for w in caught if "power_iteration" in str(w.message)]
    assert len(messages) == 1
    assert "refuses a cooperative launch" in messages[0]


def test_without_a_driver_the_extension_gives_the_reason() -> None:
    if not extension.has_kernel("power_iteration", "cuda"):
        pytest.skip("the extension was built without CUDA")
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    reason = power_iteration_gpu._refusal((0, 0, 0, 4, 9, 1), 0)
    assert reason.startswith("the properties of GPU 0 cannot be read: ")
    with pytest.raises(RuntimeError, match="the properties of GPU 0 cannot be read: "):
        power_iteration_gpu.enough_multiprocessors((0, 0, 0, 4, 9, 1), 0)


def test_the_gradient_stays_on_the_gpu() -> None:
    with FakeTensorMode(), torch.no_grad():
        empty = [torch.empty(shape, device="cuda") for shape in ((2,), (9,), (4,))]
        numbers = [0, 2, 0, 4, 9, 1]
        (gradient,) = torch.ops.gloro_fast.power_iteration_backward(empty[0], [empty[1]], [empty[2]], numbers)
    assert gradient.device.type == "cuda"
    assert gradient.dtype == torch.bfloat16
    assert gradient.shape == (4, 9)


def test_a_training_step_takes_one_launch_each_way_and_one_copy() -> None:
    """An op is one launch, or one for every 96 layers (test_power_iteration_planner)."""
    net = GloRoNet(build("2C2F", input_shape=(1, 12, 12), num_classes=4), 0.3, (1, 12, 12))
    x, labels = torch.rand(3, 1, 12, 12), torch.tensor([0, 1, 2])
    with Calls() as calls:
        net(x, labels, TradesLoss(1.0)).backward()
    assert calls.counts["gloro_fast.power_iteration.default"] == 1
    assert calls.counts["gloro_fast.power_iteration_backward.default"] == 1
    assert calls.counts["aten._foreach_copy_.default"] == 1
    assert calls.counts["aten.copy_.default"] == 0


def test_nothing_is_asked_of_the_gpu_that_a_graph_cannot_capture() -> None:
    """Neither op waits for the GPU, copies to it or allocates but from torch, whose allocator knows of the capture."""
    csrc = Path(__file__).resolve().parents[2] / "csrc"
    sources = [*csrc.glob("cuda/power_iteration*"), *csrc.glob("glue/cuda/power_iteration*")]
    assert len(sources) > 10
    calls = {call for source in sources for call in re.findall(r"\b(cu(?:da)?[A-Z]\w+)\(", source.read_text())}
    assert calls == {
        "cudaDeviceGetAttribute",
        "cudaFuncSetAttribute",
        "cudaGetErrorString",
        "cudaGetLastError",
        "cudaLaunchKernelEx",
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor",
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_captures_both_ops() -> None:
    weights, v = ([t.cuda() for t in tensors] for tensors in draw(MIXED))
    numbers = layer_numbers(weights, [geometry for _, geometry in MIXED])

    def both() -> list[Tensor]:
        sigma, v_new, u = torch.ops.gloro_fast.power_iteration(weights, v, numbers, 3)
        return [sigma, *v_new, *u, *torch.ops.gloro_fast.power_iteration_backward(sigma, v_new, u, numbers)]

    both()
    few = power_iteration_gpu.enough_multiprocessors(tuple(numbers), 0)
    assert 1 <= few <= torch.cuda.get_device_properties(0).multi_processor_count
    shared = torch.ops.gloro_fast.power_iteration(weights, v, numbers, 3, multiprocessors=few)[0]
    torch.testing.assert_close(shared, both()[0], rtol=1e-4, atol=0)  # perhaps on other cores
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for weight in weights:
        weight.mul_(2).add_(0.01)
    graph.replay()
    for a, b in zip(captured, both(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_layers(dtype: torch.dtype) -> None:
    layers = [conv((32, 32), (256, 256), 3, padding=(1, 1)), conv((16, 16), (128, 320), 3, 2, (1, 1))]
    geometries = [geometry for _, geometry in layers]
    weights, v = draw(layers, dtype)
    leaves = [weight.double().requires_grad_() for weight in weights]
    exact, v_exact, _ = power_iteration_reference(leaves, [start.double() for start in v], geometries, 5)
    gradients = torch.autograd.grad(exact.sum(), leaves)
    runs = []
    for _ in range(3):
        on_gpu = [weight.cuda().requires_grad_() for weight in weights]
        sigma, v_new, u = power_iteration(on_gpu, [start.cuda() for start in v], geometries, 5)
        runs.append([sigma, *v_new, *u, *torch.autograd.grad(sigma.sum(), on_gpu)])
    torch.testing.assert_close(runs[0][0].cpu().double(), exact.detach(), rtol=1e-4, atol=0)
    rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps
    for actual, expected in zip([*runs[0][1:3], *runs[0][5:]], [*v_exact, *gradients], strict=True):
        error = torch.linalg.vector_norm(actual.cpu().double() - expected)
        assert error <= (1e-3 + rounding) * torch.linalg.vector_norm(expected)
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))
