"""The stages of a visit to a GPU machine: what each runs, and how long it may take."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_GRACE = 20.0
STOPPED = "stopped at its limit"


@dataclass(frozen=True)
class Visit:
    """What the stages are told.

    Attributes:
        device: as torch names it.
        fast: whether to see only that everything runs.
        out: the folder of all output.
        data: the folder with the data sets, as `gloro-fast reproduce --all` takes it.
        has_wheel: whether the package was brought as a wheel, so that nothing is to be compiled.
    """

    device: str
    fast: bool
    out: Path
    data: Path
    has_wheel: bool = False


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        what: it does, in a few words.
        seconds: it may take.
        command: what to run.
    """

    what: str
    seconds: float
    command: Callable[[Visit], list[str]]


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _measurement(module: str) -> Callable[[Visit], list[str]]:
    def command(visit: Visit) -> list[str]:
        fast = ["--fast"] if visit.fast else []
        return _python("-m", f"benchmarks.gpu.{module}", "--device", visit.device, *fast)

    return command


def _pytest(*paths: str) -> Callable[[Visit], list[str]]:
    def command(visit: Visit) -> list[str]:
        workers = ["-n", str(min(14, os.cpu_count() or 1))] if find_spec("xdist") and not visit.fast else []
        chosen = ["tests/test_gpu.py"] if visit.fast else list(paths)
        return _python("-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *workers, *chosen)

    return command


def _sanitizer(tool: str) -> Callable[[Visit], list[str]]:
    def command(visit: Visit) -> list[str]:
        return ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *_measurement("every_kernel")(visit)]

    return command


def _build(visit: Visit) -> list[str]:
    if visit.has_wheel:
        return _python("-c", "import gloro_fast; print('the wheel that was brought:', gloro_fast.__file__)")
    return _python("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--editable", ".")


def _bench(visit: Visit) -> list[str]:
    quick = ["--quick"] if visit.fast else []
    only = ["-k", "training_step and 2C2F"] if visit.fast else []
    return _python("-m", "benchmarks", "--name", "gpu", *quick, "--", "--device", visit.device, *only)


def _train(visit: Visit) -> list[str]:
    epochs = "1" if visit.fast else "100"
    run = str(visit.out / "mnist-2c2f")
    return _python(
        *("-m", "gloro_fast", "train", "--recipe", "mnist-2c2f", "--epochs", epochs, "--data-dir", str(visit.data)),
        *("--device", visit.device, "--out", run, "--overwrite"),
    )


def _reproduce(visit: Visit) -> list[str]:
    length = ["--minutes", "2", "--quick"] if visit.fast else ["--minutes", "7"]
    return _python(
        *("-m", "gloro_fast", "reproduce", "--all", *length, "--resume", "--device", visit.device),
        *("--data-dir", str(visit.data), "--out", str(visit.out / "reports"), "--runs", str(visit.out / "runs")),
    )


STAGES: Mapping[str, Stage] = {
    "build": Stage("compile and install the package, if no wheel of it was brought", 170, _build),
    "info": Stage("which op runs as what", 60, lambda visit: _python("-m", "gloro_fast", "info")),
    "doctor": Stage(
        "every kernel against float64; as on a fresh machine where it comes before other stages",
        120,
        lambda visit: _python("-m", "gloro_fast", "doctor", "--device", visit.device),
    ),
    "tests": Stage("the tests that need a GPU most", 170, _pytest("tests/ops", "tests/doctor", "tests/test_gpu.py")),
    "suite": Stage("all tests", 400, _pytest("tests")),
    "memcheck": Stage("every kernel under compute-sanitizer", 100, _sanitizer("memcheck")),
    "racecheck": Stage("the same for races in shared memory", 100, _sanitizer("racecheck")),
    "steps": Stage("training steps", 180, _measurement("steps")),
    "bounds": Stage("the bound, narrow nets and wide", 100, _measurement("bounds")),
    "certify": Stage("freezing and certifying", 120, _measurement("certifying")),
    "minmax": Stage("activations", 60, _measurement("activations")),
    "margin": Stage("margin and losses", 60, _measurement("losses")),
    "determinism": Stage("same seed, same bits", 90, _measurement("determinism")),
    "tf32": Stage("errors of logits", 60, _measurement("rounding")),
    "train": Stage("a training run of MNIST", 170, _train),
    "reproduce": Stage(
        "the paper's figures and tables in seven minutes; goes on where it was stopped", 540, _reproduce
    ),
    "bench": Stage("make bench", 330, _bench),
}
USUAL = ("build", "info", "doctor", "steps", "bounds", "certify", "minmax", "margin", "determinism", "tf32", "train")


def run(name: str, stage: Stage, visit: Visit, environment: Mapping[str, str]) -> dict[str, object]:
    """Run a stage, its output in ``visit.out``; at its limit it is interrupted, then killed.

    Args:
        name: of the stage.
        stage: to run.
        visit: what it is told.
        environment: of its process.

    Returns:
        status (exit code, or why there is none) and seconds.
    """
    command, start = stage.command(visit), time.monotonic()
    if shutil.which(command[0]) is None:
        return {"status": f"{command[0]} is not on this machine", "seconds": 0.0}
    with (visit.out / f"{name}.txt").open("wb") as output:
        # A session of its own: what the stage started ends with it.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        status: int | str
        try:
            status = process.wait(stage.seconds)
        except subprocess.TimeoutExpired:
            status = STOPPED
            _end(process)
        except BaseException:
            _end(process)
            raise
    return {"status": status, "seconds": round(time.monotonic() - start, 1)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt, so that pytest still names what failed; after a while, kill."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_GRACE)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return
