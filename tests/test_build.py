from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gloro_fast._version import __version__
from gloro_fast.native import extension

ROOT = Path(__file__).resolve().parents[1]

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def widest_level() -> str:
    """Return the SIMD level that nothing caps."""
    return printed_level("").stdout.strip()


def printed_level(most: str) -> subprocess.CompletedProcess[str]:
    code = "from gloro_fast.native import extension as e; print(e.facts()['simd'])"
    return run_python(code, GLORO_FAST_SIMD=most)


@cache
def without_a_device() -> dict[str, bool]:
    """Return what holds in a process that has no CUDA device."""
    result = run_python(
        "import json, torch, gloro_fast.ops; from gloro_fast.native import extension as e\n"
        "assert e.available(), e.why_not()\n"
        "maps = open('/proc/self/maps').read() if __import__('sys').platform == 'linux' else 'libgloro_fast'\n"
        "assert 'libgloro_fast' in maps\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "ops = ['power_iteration', 'power_iteration_backward']\n"
        "registered = all([has('gloro_fast::' + op, key) for op in ops for key in ('CPU', 'CUDA')])\n"
        "print(json.dumps({'driver': 'libcuda.so' in maps, 'registered': registered}))",
        CUDA_VISIBLE_DEVICES="",
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, bool] = json.loads(result.stdout)
    return found


class TestLoaded:
    @compiled
    def test_facts(self) -> None:
        facts = extension.facts()
        assert facts["available"] is True
        assert facts["why_not"] is None
        if importlib.util.find_spec("gloro_fast._build_info") is None:
            pytest.skip("the module of build facts was not built: no Python headers")
        assert facts["version"] == __version__
        assert facts["compiler"].split()[0] in ("gcc", "clang")
        assert facts["simd"] in ("avx512", "avx2", "portable")
        assert bool(facts["cuda_architectures"]) == (facts["nvcc"] is not None)

    @compiled
    @pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
    def test_the_simd_level_is_capped(self, level: str) -> None:
        if importlib.util.find_spec("gloro_fast._build_info") is None:
            pytest.skip("the module of build facts was not built: no Python headers")
        order = ["portable", "avx2", "avx512"]
        result = printed_level(level)
        assert result.stdout.strip() == min(level, widest_level(), key=order.index)
        assert "GLORO_FAST_SIMD" not in result.stderr

    @compiled
    def test_an_unknown_simd_level_is_named_and_ignored(self) -> None:
        code = "import torch, gloro_fast.ops as o; print(o.minmax(torch.tensor([[2.0, 1.0]]))[0].tolist())"
        result = run_python(code, GLORO_FAST_SIMD="sse9")
        assert result.stdout.strip() == "[[1.0, 2.0]]"
        assert result.stderr.count('GLORO_FAST_SIMD is "sse9", which is ignored; use one of portable') == 1

    @compiled
    @pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
    def test_no_driver_is_needed(self) -> None:
        assert not without_a_device()["driver"]

    @compiled
    def test_both_devices_are_registered_without_a_driver(self) -> None:
        if not extension.facts().get("cuda_architectures"):
            pytest.skip("the extension was built without CUDA")
        assert without_a_device()["registered"]

    @compiled
    @pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
    def test_only_the_c_functions_of_torch_are_called(self) -> None:
        """Those of C++ differ from one version of torch to the next."""
        nm = ["nm", "--dynamic", "--undefined-only", "--demangle", extension.facts()["library"]]
        names = subprocess.run(nm, capture_output=True, text=True, check=True).stdout
        assert "torch_call_dispatcher" in names
        assert not re.findall(r"\b(?:at|c10|torch|caffe2)::.*", names)

    def test_kernels_are_a_package(self) -> None:
        try:
            importlib.metadata.distribution("gloro-fast")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("gloro-fast is imported from its source folder, not installed")
        assert importlib.import_module("gloro_fast.kernels").__doc__


class TestNotLoaded:
    def test_plain_pytorch_stands_in_with_one_warning(self) -> None:
        result = run_python(
            "import json, warnings, torch\n"
            "from gloro_fast.native import extension\n"
            "from gloro_fast.ops.minmax_op import minmax\n"
            "with warnings.catch_warnings(record=True) as caught:\n"
            "    warnings.simplefilter('always')\n"
            "    y = [minmax(torch.tensor([[2.0, 1.0]]))[0].tolist() for _ in range(3)]\n"
            "messages = [str(w.message) for w in caught if 'gloro_fast' in str(w.message)]\n"
            "print(json.dumps([y, messages, extension.available(), extension.why_not()]))",
            GLORO_FAST_NO_EXTENSION="1",
        )
        assert result.returncode == 0, result.stderr
        y, messages, available, why_not = json.loads(result.stdout)
        assert y == [[[1.0, 2.0]]] * 3
        assert len(messages) == 1
        assert "GLORO_FAST_NO_EXTENSION is set" in messages[0]
        assert not available
        assert why_not == "GLORO_FAST_NO_EXTENSION is set"

    def test_nothing_built(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(extension, "_LIBRARY", tmp_path / "libgloro_fast.so")
        monkeypatch.delenv("GLORO_FAST_NO_EXTENSION", raising=False)
        reason = extension._load()
        assert reason is not None
        assert "not built" in reason
        assert "pip install --no-build-isolation ." in reason

    def test_damaged_library(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "libgloro_fast.so").write_bytes(b"not a library")
        monkeypatch.setattr(extension, "_LIBRARY", tmp_path / "libgloro_fast.so")
        monkeypatch.delenv("GLORO_FAST_NO_EXTENSION", raising=False)
        reason = extension._load()
        assert reason is not None
        assert f"does not load into torch {torch.__version__}" in reason
        assert "\n" not in reason

    def test_library_of_another_version(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "libgloro_fast.so").write_bytes(b"")
        monkeypatch.setattr(extension, "_LIBRARY", tmp_path / "libgloro_fast.so")
        monkeypatch.setattr(extension, "_BUILD_INFO", SimpleNamespace(version="0.0.0"))
        monkeypatch.delenv("GLORO_FAST_NO_EXTENSION", raising=False)
        reason = extension._load()
        assert reason is not None
        assert f"built for gloro_fast 0.0.0, this is {__version__}" in reason


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
class TestSetup:
    """What setup.py says where something is missing: one line, no traceback."""

    def build(self, prelude: str = "pass", **environment: str) -> subprocess.CompletedProcess[str]:
        pytest.importorskip("setuptools")
        return run_python(
            f"import runpy, sys; {prelude}; sys.argv = ['setup.py', 'build_ext'];"
            "runpy.run_path('setup.py', run_name='__main__')",
            **{"GLORO_FAST_NO_EXTENSION": "", **environment},
        )

    def said(self, result: subprocess.CompletedProcess[str]) -> str:
        assert "Traceback" not in result.stderr
        lines = [line for line in result.stderr.splitlines() if line.startswith("gloro-fast: ")]
        assert len(lines) == 1, result.stderr
        return lines[0]

    def test_no_compiler(self) -> None:
        result = self.build(CXX="no-such-compiler")
        assert result.returncode == 0
        assert "WARNING: no C++ compiler (no-such-compiler) found: installing pure Python" in self.said(result)

    def test_skipped_on_request(self) -> None:
        result = self.build(GLORO_FAST_NO_EXTENSION="1")
        assert result.returncode == 0
        assert "GLORO_FAST_NO_EXTENSION is set" in self.said(result)

    @pytest.mark.parametrize(
        ("missing", "remedy"), [("torch", "pip install torch"), ("pybind11", "pip install pybind11")]
    )
    def test_missing_build_requirement(self, missing: str, remedy: str) -> None:
        result = self.build(f"sys.modules['{missing}'] = None", CXX="true", GLORO_FAST_CUDA_ARCHS="none")
        assert result.returncode == 1
        assert remedy in self.said(result)

    @pytest.mark.parametrize("folder", ["lib", "lib64"])
    def test_the_cuda_runtime_of_pypis_wheels_is_linked(self, folder: str, tmp_path: Path) -> None:
        """They have it in lib, where nvcc does not look, the toolkit in lib64, where it does."""
        for file in (tmp_path / "bin" / "nvcc", tmp_path / folder / "libcudart_static.a"):
            file.parent.mkdir()
            file.touch()
        result = run_python(
            "import runpy, sys; sys.argv = ['setup.py', '--version'];"
            f"print(runpy.run_path('setup.py')['cuda_libraries']({str(tmp_path / 'bin' / 'nvcc')!r}))"
        )
        expected = ["-L", str(tmp_path / "lib")] if folder == "lib" else []
        assert result.stdout.splitlines()[-1] == str(expected), result.stderr

    def test_an_older_torch_is_refused(self) -> None:
        older = "import importlib.metadata as m; version = m.version; m.version = lambda name: '2.10.1'"
        result = self.build(older, CXX="true", GLORO_FAST_CUDA_ARCHS="none")
        assert result.returncode == 1
        assert "PyTorch 2.10.1 is too old: run `pip install -U 'torch>=2.11'`" in self.said(result)

    def test_the_oldest_torch_is_the_same_everywhere(self) -> None:
        setup, project = (ROOT / "setup.py").read_text(), (ROOT / "pyproject.toml").read_text()
        oldest = re.findall(r"PyTorch (\d+\.\d+) or newer", (ROOT / "README.md").read_text())
        assert set(re.findall(r"torch>=([\d.]+)", setup + project)) == set(oldest) == {"2.11"}

    @pytest.mark.parametrize(
        ("cuda", "asked", "found"), [(None, None, ""), ("13.0", None, "80 90"), (None, "all", "80 90")]
    )
    def test_cuda_is_left_out_where_torch_has_none(self, cuda, asked, found, tmp_path: Path, monkeypatch) -> None:
        """Unless it is asked for, as CI does."""
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text("#!/bin/sh\necho V13.0 compute_80 compute_90\n")
        nvcc.chmod(0o755)
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "__init__.py").touch()
        (tmp_path / "torch" / "version.py").write_text(f"cuda = {cuda!r}\n")
        environment = {"CUDA_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
        if asked is None:
            monkeypatch.delenv("GLORO_FAST_CUDA_ARCHS", raising=False)
        else:
            environment["GLORO_FAST_CUDA_ARCHS"] = asked
        result = run_python(
            "import runpy, sys; sys.argv = ['setup.py', '--version'];"
            "print(*runpy.run_path('setup.py')['find_cuda'](('c++',)).architectures)",
            **environment,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == found
        assert ("GLORO_FAST_CUDA_ARCHS=all" in result.stderr) == (found == "")

    def test_unknown_architecture(self, tmp_path: Path) -> None:
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text("#!/bin/sh\necho V13.0\n")
        nvcc.chmod(0o755)
        result = self.build(CXX="true", CUDA_HOME=str(tmp_path), GLORO_FAST_CUDA_ARCHS="80;ampere")
        assert result.returncode == 1
        assert '"ampere" is no architecture' in self.said(result)
