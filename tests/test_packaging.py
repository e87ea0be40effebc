"""What is installed elsewhere: the wheel, tried when asked for, and the image, whose commands are compared."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "examples/docker/Dockerfile").is_file(), reason="needs the checkout")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments."""
    lines = [line for line in read("examples/docker/Dockerfile").splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_made_by_the_commands_of_readme_and_makefile():
    runs = [rest for word, rest in instructions() if word == "RUN"]
    (installing,) = re.findall(r"^    (pip install .*--no-build-isolation .*)$", read("README.md"), re.M)
    makefile = read("Makefile")
    (torch,) = re.findall(r"\$\(INSTALL\) (torch==\S+)", makefile)
    system, environment, pytorch, package = runs
    assert package == installing
    assert shlex.split(pytorch)[-1] == torch
    assert "-c .ci/constraints.txt" in pytorch
    assert torch in read(".ci/constraints.txt").split()
    assert environment == "python3 -m venv /opt/venv"
    assert "$(PYTHON) -m venv $(VENV)" in makefile
    # setup.py asks for a compiler and for Python's headers.
    assert {"g++", "python3-dev", "python3-venv"} <= set(system.split())


def test_the_image_is_for_cpus_unless_told_otherwise_and_ends_in_the_doctor():
    found = instructions()
    assert found[-1] == ("CMD", '["gloro-fast", "doctor"]')
    assert "gloro-fast doctor" in read("README.md")
    arguments = dict(rest.split("=", 1) for word, rest in found if word == "ARG")
    assert arguments == {"BASE": "ubuntu:24.04", "TORCH_INDEX": "https://download.pytorch.org/whl/cpu"}
    described = set(re.findall(r"--build-arg (\w+)=", read("examples/docker/Dockerfile")))
    assert described == set(arguments)


def test_the_image_takes_nothing_that_was_built_here():
    left_out = read("examples/docker/Dockerfile.dockerignore").split()
    assert {".git", ".venv", "build", "**/*.so"} <= set(left_out)
    for needed in ("setup.py", "pyproject.toml", ".ci/constraints.txt", "csrc", "kernels", "gloro_fast"):
        assert (ROOT / needed).exists()
        assert needed.split("/")[0] not in left_out


def test_the_wheel_is_repaired_and_tried_here_as_by_the_workflow():
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["cibuildwheel"]
    script = read(".ci/wheel")
    training = settings["test-command"].split(" && ")[-1]
    assert training in script
    assert training in read("Makefile").replace("$(BIN)/", "")
    assert '["repair-wheel-command"]' in script
    assert "python -m cibuildwheel" in read(".github/workflows/wheels.yml")


@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    os.environ.get("GLORO_FAST_TEST_WHEEL", "0") in ("", "0"), reason="takes minutes: set GLORO_FAST_TEST_WHEEL=1"
)
def test_the_demo_runs_from_a_wheel_without_a_compiler(tmp_path):
    compilers = ["c++", "g++", "gcc", "cc", "clang++", "nvcc"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [ROOT / ".ci" / "wheel", tmp_path / "wheel"],
        env={**environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "wheel" / "wheelhouse").glob("gloro_fast-*.whl")
    assert "manylinux" in wheel.name
    assert wheel.stat().st_size < 100 << 20, "a library of torch was packed into the wheel"
    assert (tmp_path / "wheel" / "run" / "runs" / "digits" / "result.json").is_file()
    clean = tmp_path / "wheel" / "clean" / "bin"
    assert not any(shutil.which(name, path=str(clean)) for name in compilers)
    told = subprocess.check_output([clean / "gloro-fast", "info", "--json"], env={"PATH": str(clean)}, cwd=tmp_path)
    extension = json.loads(told)["extension"]
    assert extension["available"], extension["why_not"]
    assert Path(extension["library"]).is_relative_to(tmp_path / "wheel" / "clean")
