"""Power iteration under AddressSanitizer and UndefinedBehaviorSanitizer, at every level that the machine has."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path

import pytest
from test_sanitized import CPU, FLAGS, HERE, SANITIZERS, compiler, run, side_by_side, subprocess

__all__ = ["compiler"]  # a fixture

LEVELS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl"))],
}
X86 = platform.machine() in ("x86_64", "AMD64")
SOURCES = [
    HERE / "power_iteration_sanitized.cpp",
    CPU / "simd.cpp",
    *(source for source in sorted(CPU.glob("power_iteration*.cpp")) if X86 or not source.stem.endswith(tuple(LEVELS))),
]
CASES_A_LEVEL = 114


def compile_object(compiler: list[str], source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    flags = [*FLAGS, *LEVELS.get(source.stem.rpartition("_")[2], []), *SANITIZERS]
    command = [*compiler, *flags, "-I", str(CPU), "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture(scope="module")
def objects(compiler: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("objects")
    built = side_by_side(partial(compile_object, compiler, folder=folder), SOURCES)
    return {source.name: path for source, path in zip(SOURCES, built, strict=True)}


def test_power_iteration(compiler: list[str], objects: dict[str, Path], tmp_path: Path) -> None:
    result = run(compiler, list(objects.values()), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    cases = int(result.stdout.removesuffix(" cases\n"))
    assert cases in {CASES_A_LEVEL, 2 * CASES_A_LEVEL, 3 * CASES_A_LEVEL}


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param("grid", "outputs + highest}", "outputs}", id="rows too close together"),
        pytest.param("grid", "guard_ = round_up(", "guard_ = 0 * round_up(", id="no zeros around the planes"),
        pytest.param("conv", "  v_next_.clear();\n", "", id="forgets to clear"),
        pytest.param(
            "dense", "std::min(begin + rows_per_chunk_, layer_.outputs)", "begin + rows_per_chunk_", id="rows"
        ),
        pytest.param("gradient", "std::min(first + j, columns_ - 1)", "first + j", id="reads a tap that is not there"),
        pytest.param("schedule", "seen + 1", "seen", id="gives a chunk out twice"),
    ],
)
def test_a_planted_bug_is_caught(
    compiler: list[str], objects: dict[str, Path], tmp_path: Path, file: str, right: str, wrong: str
) -> None:
    name = f"power_iteration_{file}.cpp"
    kernel = (CPU / name).read_text()
    assert right in kernel, "the kernel no longer has the place where the bug is planted"
    (tmp_path / name).write_text(kernel.replace(right, wrong))
    built = {**objects, name: compile_object(compiler, tmp_path / name, tmp_path)}
    result = run(compiler, list(built.values()), tmp_path)
    assert result.returncode != 0
