"""A training step in a process of its own, as its user runs it.

What a process frees stays with it or goes back to the system, as its allocator is set; in one process the settings
of one contender would be those of all.

    python -m benchmarks.step_process 2C2F cpu '{"kind": "stock", "settings": {"channels_last": true}}'
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch

from benchmarks.candidates import fastest
from benchmarks.captured import captured
from benchmarks.device_time import DeviceTime, device_time
from benchmarks.eager import EagerStep
from benchmarks.gloro import GloRoStep, by_hand
from benchmarks.interleaving import Job, at_once
from benchmarks.networks import NETWORKS, Network
from benchmarks.stock import Settings, StandardStep

OURS, STOCK, EAGER, COMPILED = "gloro_fast", "stock", "eager", "torch.compile"
OURS_IN_A_GRAPH, STOCK_IN_A_GRAPH = "gloro_fast in a graph", "stock in a graph"
# OpenMP's threads wait busily for a few milliseconds after a step; the next contender's must find the cores free.
_IDLE_SECONDS = 0.02


def settle() -> None:
    """Wait until the threads of the last step sleep."""
    time.sleep(_IDLE_SECONDS)


class StepProcess:
    """Runs steps of one contender in a process of its own; to be used in a ``with`` statement.

    Args:
        network: name of the network.
        device: where to train.
        kind: whose step.
        settings: what a user may choose; none for ours.
    """

    def __init__(self, network: str, device: torch.device, kind: str, settings: Settings | None = None) -> None:
        spec = json.dumps({"kind": kind, "settings": dataclasses.asdict(settings) if settings else {}})
        self._process = _start(network, device, spec)

    def __enter__(self) -> StepProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _end(self._process)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def __call__(self) -> None:
        """Do one step and wait for it.

        Raises:
            RuntimeError: it failed; the message is the process's own.
        """
        self._ask("step")

    def device_time(self, calls: int = 20, rounds: int = 5) -> DeviceTime:
        """Say where the time of its steps goes.

        Args:
            calls: steps of a round.
            rounds: after one of warm-up.

        Raises:
            RuntimeError: a step failed; the message is the process's own.
        """
        return DeviceTime(**self._ask(f"device time {calls} {rounds}"))

    def _ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return _answer(self._process)


def choose(
    network: str, device: torch.device, candidates: Mapping[str, Sequence[Settings]], rounds: int
) -> dict[str, dict[Settings, float]]:
    """Measure the candidates of each kind side by side, one kind after the other, in one process.

    Returns:
        For each kind the median seconds of its candidates; the fastest comes first.
    """
    listed = {kind: [dataclasses.asdict(settings) for settings in each] for kind, each in candidates.items()}
    process = _start(network, device, json.dumps({"candidates": listed, "rounds": rounds}))
    try:
        medians = _answer(process)
    finally:
        _end(process)
    pairs = {
        kind: zip(each, seconds, strict=True) for (kind, each), seconds in zip(candidates.items(), medians, strict=True)
    }
    return {kind: dict(sorted(each, key=lambda pair: pair[1])) for kind, each in pairs.items()}


def main(network_name: str, device_name: str, spec: str) -> None:
    """Make the contender, then step once for every line of the input, or as often as it asks for, answering each."""
    network, device, wanted = NETWORKS[network_name], torch.device(device_name), json.loads(spec)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else at_once
    try:
        if "candidates" in wanted:
            return _say(
                [
                    _medians(_maker(network, device, kind), candidates, synchronize, wanted["rounds"])
                    for kind, candidates in wanted["candidates"].items()
                ]
            )
        step = _maker(network, device, wanted["kind"])(Settings(**wanted["settings"]))
        for line in sys.stdin:
            if line.startswith("device"):
                calls, rounds = map(int, line.split()[2:])
                _say(dataclasses.asdict(device_time(step, device, calls=calls, rounds=rounds)))
                continue
            step()
            synchronize()
            _say(None)
    except Exception as error:  # whatever the compiler of this machine fails with
        _say({"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]})


def _medians(
    make: Callable[[Settings], Job], candidates: Sequence[Mapping[str, bool]], synchronize: Job, rounds: int
) -> list[float]:
    jobs = {index: make(Settings(**settings)) for index, settings in enumerate(candidates)}
    _, medians = fastest(jobs, synchronize, rounds)
    return [medians[index] for index in jobs]


def _maker(network: Network, device: torch.device, kind: str) -> Callable[[Settings], Job]:
    if kind == OURS:
        return lambda settings: GloRoStep(network, device)
    batch = network.data(network.batch_size).train
    images, labels = (batch.images / 255).to(device), batch.labels.to(device)
    if kind == OURS_IN_A_GRAPH:
        return lambda settings: by_hand(network, device, graph=True)
    if kind == STOCK_IN_A_GRAPH:
        return lambda settings: captured(StandardStep(network, settings, images, labels, capturable=True), device)
    if kind == STOCK:
        return lambda settings: StandardStep(network, settings, images, labels)
    if kind in (EAGER, COMPILED):
        return lambda settings: EagerStep(network, settings, images, labels, compile=kind == COMPILED)
    raise ValueError(f"there is no contender {kind!r}")


def _start(network: str, device: torch.device, spec: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.step_process", network, str(device), spec]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    # Compilers print as they like; answers are marked.
    for line in process.stdout:
        if line.startswith(_MARK):
            answer = json.loads(line.removeprefix(_MARK))
            if isinstance(answer, dict) and "error" in answer:
                raise RuntimeError(answer["error"])
            return answer
    raise RuntimeError(f"the process of a training step ended with status {process.wait()}; its messages stand above")


_MARK = "step_process: "


def _say(answer: object) -> None:
    print(f"{_MARK}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
