"""The host time of an eager step by hand, ours and stock's, estimated without a GPU.

An estimate of how long the thread that feeds a GPU is busy with a step, and above all of the ratio of two: the same
layers of a few channels and pixels each, on the CPU, whose operations then take little more than their dispatch, in one
thread, by its processor time. Ours go the way that they go on a GPU, through our Triton host code down to Triton's
launcher, which is left out. What is not in it: the driver's part of a launch, a few microseconds for each of theirs and
ours, the host code of the power iteration's CUDA op, in whose place the CPU's computes its few numbers, and that
autograd has a thread of its own for a GPU.

    python -m benchmarks.host_time [--profile 6C2F]
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import gc
import importlib
import pstats
import random
import time
import warnings
from collections.abc import Callable, Iterator
from statistics import quantiles
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn
from triton.backends.compiler import GPUTarget

from benchmarks.interleaving import Job
from benchmarks.networks import LAMBDA
from benchmarks.stock import adam
from gloro_fast import GloRoNet
from gloro_fast.losses import TradesLoss
from gloro_fast.models.architectures import ARCHITECTURES
from gloro_fast.native import dispatch
from gloro_fast.nn import Conv2d, MinMax
from gloro_fast.ops import labels as labels_module
from gloro_fast.ops import product, statistics

_NETWORKS = ("2C2F", "4C3F", "6C2F")
_INPUT = (2, 8, 8)
_BATCH, _CLASSES = 4, 10
_WIDTH = 8


class _Driver:
    """A GPU that Triton compiles for, and whose launcher launches nothing."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(
            load_binary=lambda name, kernel, shared, device: (object(), 0, 0, 0, 1024),
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
        )
        self.get_current_stream = int

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: None


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let tensors of the CPU go the way of a GPU's: our kernels for one, and no look at values."""
    library = torch.library.Library("gloro_fast", "IMPL")  # type: ignore[no-untyped-call]
    with contextlib.ExitStack() as stack:
        stack.callback(library._destroy)
        with warnings.catch_warnings(action="ignore"):  # of kernels for the CPU that are replaced
            for op, implementation in dispatch.implementations().items():
                library.impl(op.removeprefix("gloro_fast::"), implementation, "CPU")  # type: ignore[no-untyped-call]
        stack.callback(triton.runtime.driver.set_active, triton.runtime.driver._active)
        triton.runtime.driver.set_active(_Driver())
        for module, name, answer in (
            (dispatch, "_is_seen_by_nobody", True),
            (importlib.import_module("gloro_fast.kernels.launching"), "_are_on_gpu", True),
            (statistics, "_runs_compiled", True),
            (labels_module, "is_on_host", False),
        ):
            # No mock, whose calls take microseconds.
            stack.enter_context(mock.patch.object(module, name, _answering(answer)))
        stack.enter_context(mock.patch.object(product, "gradient", _gradient_of_product))
        yield


def _answering(answer: bool) -> Callable[[object], bool]:
    return lambda asked: answer


def _gradient_of_product(grad: Tensor, values: Tensor, result: Tensor) -> Tensor:
    gradient: Tensor = product._gradient_on_gpu(grad, values)
    return gradient


def ours(name: str) -> Job:
    """Make a step by hand of a GloRo net."""
    module = _narrow(name, lambda i, o, size, stride: Conv2d(i, o, size, stride, "same"), MinMax)
    net = GloRoNet(module, 0.3, _INPUT).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion, optimizer = TradesLoss(LAMBDA), adam(net, fused=True)
    images, labels = _batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = net(images, labels, criterion)
        loss.backward()
        optimizer.step()

    return step


def stock(name: str) -> Job:
    """Make a step of the same layers with ReLU and cross entropy."""
    module = _narrow(name, lambda i, o, size, stride: nn.Conv2d(i, o, size, stride, 1), lambda: nn.ReLU(inplace=True))
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = adam(module, fused=True)
    images, labels = _batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(module(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _narrow(name: str, convolution: Callable[..., nn.Module], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Build the layers of a network of the paper, all of a few channels."""
    channels, height, width = _INPUT
    layers: list[nn.Module] = []
    for _, kernel, stride in ARCHITECTURES[name].convolutions:
        layers += [convolution(channels, _WIDTH, kernel, stride), activation()]
        channels, height, width = _WIDTH, height // stride, width // stride
    layers.append(nn.Flatten())
    features = channels * height * width
    for _ in ARCHITECTURES[name].dense:
        layers += [nn.Linear(features, _WIDTH), activation()]
        features = _WIDTH
    return nn.Sequential(*layers, nn.Linear(features, _CLASSES))


def _batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(_BATCH, *_INPUT).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(_CLASSES, (_BATCH,))


def _seconds(job: Job, calls: int) -> float:
    start = time.thread_time()
    for _ in range(calls):
        job()
    return (time.thread_time() - start) / calls


def compare(jobs: dict[str, Job], *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Run jobs in turns, in an order of its own each round, and give the seconds of each, round by round."""
    order = list(jobs)
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    gc.collect()
    gc.disable()
    for turn in range(-1, rounds):
        random.shuffle(order)
        for name in order:
            seconds = _seconds(jobs[name], calls)
            if turn >= 0:  # the first compiles
                taken[name].append(seconds)
    gc.enable()
    return taken


def main() -> None:
    """Print a line a network: quartiles of ours, of stock's, and of the ratio of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=20, help="steps a round")
    parser.add_argument("--profile", metavar="NETWORK", choices=_NETWORKS, help="show where ours spends it instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # what kernels that never ran leave is anything
    if options.profile:
        _show_profile(ours(options.profile))
        return
    for name in _NETWORKS:
        jobs = {"ours": ours(name), "stock": stock(name)}  # where values count: a net compares itself with its graph
        with as_on_a_gpu():
            taken = compare(jobs, rounds=options.rounds, calls=options.calls)
        ratios = [a / b for a, b in zip(taken["ours"], taken["stock"], strict=True)]
        columns = (("ours", taken["ours"], 1e6, " us"), ("stock", taken["stock"], 1e6, " us"), ("ratio", ratios, 1, ""))
        print(f"{name}:", *(_column(*column) for column in columns), sep="  ", flush=True)


def _column(label: str, values: list[float], scale: float, unit: str) -> str:
    low, median, high = (f"{scale * value:#.3g}" for value in quantiles(values, n=4))
    return f"{label} {median} ({low} to {high}){unit}"


def _show_profile(step: Job) -> None:
    with as_on_a_gpu():
        for _ in range(20):
            step()
        with cProfile.Profile() as profile:
            for _ in range(500):
                step()
    pstats.Stats(profile).sort_stats("tottime").print_stats(60)


if __name__ == "__main__":
    main()
