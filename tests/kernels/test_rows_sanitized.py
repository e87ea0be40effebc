"""The kernels on rows of logits and the hash of bytes under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import platform
import subprocess
from functools import partial
from pathlib import Path

import pytest
from test_sanitized import CPU, FLAGS, HERE, SANITIZERS, compiler, run, side_by_side

__all__ = ["compiler"]  # a fixture

KERNELS = ["head_differences.cpp", "margin.cpp", "margin_loss.cpp", "certify.cpp", "fingerprint.cpp", "simd.cpp"]
VECTOR = {"_avx2": ["-mavx2"], "_avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")]}
if platform.machine() in ("x86_64", "AMD64"):
    KERNELS += ["fingerprint_avx2.cpp", "fingerprint_avx512.cpp"]


def compile_object(compiler: list[str], source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    vector = next((flags for level, flags in VECTOR.items() if source.stem.endswith(level)), [])
    command = [*compiler, *FLAGS, *vector, *SANITIZERS, "-I", str(CPU), "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture(scope="module")
def objects(compiler: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("objects")
    sources = [HERE / "rows_sanitized.cpp", *(CPU / name for name in KERNELS)]
    built = side_by_side(partial(compile_object, compiler, folder=folder), sources)
    return {source.name: path for source, path in zip(sources, built, strict=True)}


def test_rows(compiler: list[str], objects: dict[str, Path], tmp_path: Path) -> None:
    result = run(compiler, list(objects.values()), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "198 cases\n"


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        pytest.param("margin_loss.cpp", "i < row.padded", "i < row.padded + kLanes", id="loss writes past the end"),
        pytest.param("margin_loss.cpp", "grad[label] -= 1;", "", id="forgets the label"),
        pytest.param("margin.cpp", "* classes, T{0})", "* classes + 1, T{0})", id="clears past the end"),
        pytest.param("head_differences.cpp", "k + kLanes <=", "k + kLanes <= kLanes +", id="reads past the last row"),
        pytest.param("head_differences.cpp", "[j * rows + i];\n", "[i * rows + j];\n", id="one half of the gradient"),
        pytest.param("certify.cpp", "if (i == j) continue;", "", id="takes the top for its own rival"),
        pytest.param("certify.cpp", "i < classes; ++i", "i <= classes; ++i", id="reads past the row"),
        pytest.param("fingerprint.cpp", "bytes - 8 * full_end)", "8)", id="reads past the last word"),
        pytest.param("fingerprint.cpp", "(index) + 1)", "(0) + 1)", id="forgets the place"),
    ],
)
def test_a_planted_bug_is_caught(
    compiler: list[str], objects: dict[str, Path], tmp_path: Path, file: str, right: str, wrong: str
) -> None:
    kernel = (CPU / file).read_text()
    assert right in kernel, "the kernel no longer has the place where the bug is planted"
    (tmp_path / file).write_text(kernel.replace(right, wrong))
    planted = objects | {file: compile_object(compiler, tmp_path / file, tmp_path)}
    assert run(compiler, list(planted.values()), tmp_path).returncode != 0
