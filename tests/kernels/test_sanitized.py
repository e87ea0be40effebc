"""The torch-free kernels as plain executables under AddressSanitizer and UndefinedBehaviorSanitizer.

Every instruction set that this machine has is run, and a checker is trusted only after it has caught planted bugs.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from switched_bugs import DEFINITION, plant

HERE = Path(__file__).resolve().parent
CPU = HERE.parents[1] / "csrc" / "cpu"
FLAGS = ["-std=c++17", "-O0", "-g1", "-Wall", "-Wextra"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# As setup.py compiles files of these names.
SIMD_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl"))],
}
LEVELS = ["portable", "avx2", "avx512"]
X86_64 = platform.machine() in ("x86_64", "AMD64")
VECTOR_CODE = ["minmax_avx2", "minmax_half_avx2", "minmax_avx512"] if X86_64 else []
MINMAX = ["minmax", "simd", "minmax_portable", *VECTOR_CODE]
CASES_PER_RUN = 2784  # each level runs three times, the portable one once more


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
    simd = SIMD_FLAGS.get(source.stem.rpartition("_")[2], [])
    command = [*compiler, *FLAGS, *simd, *SANITIZERS, "-I", str(CPU), "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


def side_by_side(compile_one: Callable[[Path], Path], sources: list[Path]) -> list[Path]:
    """Compile each source, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def link(compiler: list[str], objects: list[Path], folder: Path) -> Path:
    program = folder / "program"
    subprocess.run([*compiler, *SANITIZERS, *map(str, objects), "-o", str(program)], check=True)
    return program


def start(program: Path, bug: int = -1) -> subprocess.CompletedProcess[str]:
    # A preloaded allocator is more than AddressSanitizer bears.
    left_out = ("LD_PRELOAD", "GLORO_FAST_SIMD")
    environment = {k: v for k, v in os.environ.items() if k not in left_out} | {"PLANTED_BUG": str(bug)}
    return subprocess.run([str(program)], capture_output=True, text=True, env=environment, check=False)


def run(compiler: list[str], objects: list[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return start(link(compiler, objects, folder))


@pytest.fixture(scope="module")
def minmax(compiler: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The objects by name, the kernels' with all bugs, none of which is on: compiling takes longer than ten runs."""
    folder = tmp_path_factory.mktemp("minmax")
    for level in LEVELS:
        shutil.copytree(CPU, folder / level)
    for number, (level, file, right, wrong) in enumerate(PLANTED.values()):
        plant(folder / level / file, right, wrong, number)
    switch = folder / "planted_bug.cpp"
    switch.write_text(DEFINITION)
    sources = [switch, HERE / "minmax_sanitized.cpp"]
    for name in MINMAX:
        level = name.rpartition("_")[2]
        sources.append((folder / level if level in LEVELS and "half" not in name else CPU) / f"{name}.cpp")
    return {path.stem: path for path in side_by_side(partial(compile_object, compiler, folder=folder), sources)}


@pytest.fixture(scope="module")
def program(compiler: list[str], minmax: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link(compiler, list(minmax.values()), tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def levels(program: Path) -> list[str]:
    """The instruction sets of this machine, on all of which MinMax does what it should."""
    result = start(program)
    assert result.returncode == 0, result.stdout + result.stderr
    count = int(result.stdout.split()[0])
    assert result.stdout == f"{count} levels, {CASES_PER_RUN * (3 * count + 1)} cases\n"
    return LEVELS[:count]


def test_minmax(levels: list[str]) -> None:
    assert levels[0] == "portable"


# The level, the file, what stands there, and what takes its place.
PLANTED = {
    "loses NaN": ("portable", "minmax_portable.cpp", "a.lane[i] = nan[i] ?", "a.lane[i] = nan[i] && !BUG ?"),
    "moves ties": (
        "portable",
        "minmax_portable.cpp",
        "= first.lane[i] > second.lane[i];",
        "= BUG ? first.lane[i] >= second.lane[i] : first.lane[i] > second.lane[i];",
    ),
    "sum to the wrong channel": ("portable", "minmax_backward.h", "sums[2 * row + 1] =", "sums[2 * row + !BUG] ="),
    "bit to the wrong pair": ("avx2", "minmax_lanes_avx2.h", "bits & 0x0c0cu", "bits & (0x0c0cu + BUG)"),
    "reads past the end": (
        "avx512",
        "minmax_avx512.cpp",
        "_mm512_maskz_loadu_ps(low_lanes(n), p)",
        "BUG ? load(p) : _mm512_maskz_loadu_ps(low_lanes(n), p)",
    ),
    "stores over the row before": (
        "avx512",
        "minmax_output.h",
        "next_ + shift_, a, kPairs",
        "next_ + !BUG * shift_, a, kPairs",
    ),
    "forgets what was shifted out": ("avx512", "minmax_output.h", "if (left > 0) Lanes", "if (left > 0 && !BUG) Lanes"),
    "shifts by one too many": (
        "avx512",
        "minmax_avx512.cpp",
        "static_cast<int>(16 - n)",
        "static_cast<int>(16 - BUG - n)",
    ),
    "shifts out of turn": ("avx2", "minmax_lanes_avx2.h", "n < 8 ? 0 : -1", "n < 8 || BUG ? 0 : -1"),
    "streams where lines are not whole": (
        "avx2",
        "minmax_loops.h",
        "bytes % kLine == 0 &&",
        "bytes % (BUG ? 4 : kLine) == 0 &&",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str, levels: list[str], program: Path) -> None:
    if PLANTED[name][0] not in levels:
        pytest.skip(f"this machine has no {PLANTED[name][0]}")
    assert start(program, list(PLANTED).index(name)).returncode != 0


@pytest.mark.skipif(not X86_64 or shutil.which("nm") is None, reason="needs x86-64 and nm")
@pytest.mark.parametrize("name", VECTOR_CODE)
def test_vector_code_does_not_leak_into_other_files(name: str, minmax: dict[str, Path]) -> None:
    """The linker keeps one copy of an inline function, which must not be one that old processors cannot run."""
    listing = subprocess.run(["nm", "-C", str(minmax[name])], capture_output=True, text=True, check=True).stdout
    weak = [line.split(" ", 2)[2] for line in listing.splitlines() if line[17:18] in "WVu"]
    assert [symbol for symbol in weak if "minmax_avx" not in symbol and "DW.ref." not in symbol] == []
