"""The stream of a GPU that is not there: csrc/glue/cuda/stream.cpp beside a library in the place of torch's."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TORCH = Path(torch.__file__).parent

PROGRAM = """
#include <dlfcn.h>
#include <cstdio>
#include <exception>
#include "stream.h"

int main(int count, char** arguments) {
  for (int call = 0; call < 2; ++call) {
    try {
      std::printf("%ld\\n", reinterpret_cast<long>(gloro_fast::current_stream(3)));
    } catch (const std::exception& error) {
      std::printf("%s\\n", error.what());
    }
    if (count > 1 && dlopen(arguments[1], RTLD_LAZY | RTLD_LOCAL) == nullptr) return 1;
  }
}
"""
STAND_IN = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  *stream = reinterpret_cast<void*>(1000L + device);
  return FAILS;
}
"""


def build(folder: Path, source: Path, *flags: str) -> Path:
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no C++ compiler ({command[0]})")
    target = folder / source.stem
    subprocess.run([*command, "-std=c++17", str(source), *flags, "-o", str(target)], check=True)
    return target


def library(folder: Path, fails: int) -> Path:
    folder.mkdir()
    (folder / "libtorch_cuda.cpp").write_text(STAND_IN)
    flags = ("-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", f"-DFAILS={fails}")
    return build(folder, folder / "libtorch_cuda.cpp", *flags)


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="needs the source tree")
def test_the_stream_is_asked_of_the_library_once_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "program.cpp").write_text(PROGRAM)
    glue = ROOT / "csrc" / "glue" / "cuda"
    flags = ("-I", str(glue), "-isystem", str(TORCH / "include"), "-DTORCH_STABLE_ONLY", str(glue / "stream.cpp"))
    program = build(tmp_path, tmp_path / "program.cpp", *flags, "-ldl")

    def lines(*arguments: Path) -> list[str]:
        result = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
        return result.stdout.splitlines()

    missing, stream = lines(library(tmp_path / "right", 0))
    assert "install a CUDA build of PyTorch" in missing
    assert stream == "1003"
    assert "torch gives no current stream for GPU 3" in lines(library(tmp_path / "failing", 1))[1]
    assert lines() == [missing] * 2


@pytest.mark.skipif(not (TORCH / "lib" / "libtorch_cuda.so").exists(), reason="PyTorch was built without CUDA")
def test_torch_has_the_function() -> None:
    loaded = ctypes.CDLL("libtorch_cuda.so", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    assert hasattr(loaded, "aoti_torch_get_current_cuda_stream")
