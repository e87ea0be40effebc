"""The torch-free kernels as plain executables under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CPU = HERE.parents[1] / "csrc" / "cpu"
FLAGS = ["-std=c++17", "-O0", "-g", "-Wall", "-Wextra"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A C++ compiler whose sanitizers work here."""
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no C++ compiler ({command[0]})")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cpp").write_text("int main() { return 0; }\n")
    probe = [*command, *SANITIZERS, str(folder / "probe.cpp"), "-o", str(folder / "probe")]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{command[0]} has no sanitizer libraries")
    return command


def compile_object(compiler: list[str], source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    command = [*compiler, *FLAGS, *SANITIZERS, "-I", str(CPU), "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


def run(compiler: list[str], objects: list[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "program"
    subprocess.run([*compiler, *SANITIZERS, *map(str, objects), "-o", str(program)], check=True)
    # A preloaded allocator is more than AddressSanitizer bears.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    return subprocess.run([str(program)], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def harness(compiler: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_object(compiler, HERE / "minmax_sanitized.cpp", tmp_path_factory.mktemp("harness"))


def test_minmax(compiler: list[str], harness: Path, tmp_path: Path) -> None:
    result = run(compiler, [harness, compile_object(compiler, CPU / "minmax.cpp", tmp_path)], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "1344 cases\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("std::min(begin + kBits, length)", "begin + kBits", id="reads past the end"),
        pytest.param("ordered ? low : nan", "low", id="loses NaN"),
        pytest.param("const bool swap = a > b;", "const bool swap = a >= b;", id="moves ties"),
        pytest.param("sums[2 * row + 1] =", "sums[2 * row] =", id="writes a sum to the wrong channel"),
    ],
)
def test_a_planted_bug_is_caught(compiler: list[str], harness: Path, tmp_path: Path, right: str, wrong: str) -> None:
    kernel = (CPU / "minmax.cpp").read_text()
    assert right in kernel, "the kernel no longer has the place where the bug is planted"
    (tmp_path / "minmax.cpp").write_text(kernel.replace(right, wrong))
    result = run(compiler, [harness, compile_object(compiler, tmp_path / "minmax.cpp", tmp_path)], tmp_path)
    assert result.returncode != 0
