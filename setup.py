"""Builds the compiled part of gloro_fast: a library of torch ops and a module of build facts, with ninja.

torch's own CUDAExtension refuses a CPU-only torch, so compilers are driven from here. What is built follows
from what the machine has: no C++ compiler, pure Python; no nvcc, or a torch without CUDA, the CPU part. Environment
variables:

    GLORO_FAST_NO_EXTENSION=1    build nothing (and, at run time, load nothing)
    GLORO_FAST_CUDA_ARCHS        architectures to compile for, such as "80;90"; "all"; "none" leaves CUDA out
    CXX, CUDA_HOME, MAX_JOBS     as everywhere
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
OPS_LIBRARY = "libgloro_fast"  # loaded by torch, free of Python: the same file for every Python version
BUILD_FACTS = "_build_info"
TORCH_MINIMUM = (2, 11)  # of which alone the stable ABI is used, so that one binary serves every later version
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
# A kernel file named for an instruction set is compiled for it, and chosen at run time (csrc/cpu/simd.h).
SIMD_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx2", "-mfma", "-mf16c", *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl"))],
}
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "--threads=0"]
DEFAULT_ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
INSTALL = "pip install --no-build-isolation ."
Writer = Any  # ninja_syntax.Writer, imported only once the build is known to have ninja
NEEDING_A_BUILD = {"build", "build_ext", "bdist_wheel", "dist_info", "editable_wheel", "install", "develop"}


def say(message: str) -> None:
    """Print a line; pip shows it with -v, or where the build fails."""
    print(f"gloro-fast: {message}", file=sys.stderr)


def stop(message: str) -> SystemExit:
    """Make the exception that ends the build with one line and no traceback."""
    return SystemExit(f"gloro-fast: {message}")


@dataclass(frozen=True)
class Toolchain:
    """The compilers of this machine; ``nvcc`` is None where CUDA is left out."""

    cxx: tuple[str, ...]
    nvcc: str | None = None
    nvcc_version: str = ""
    architectures: tuple[str, ...] = ()

    @property
    def gencode(self) -> list[str]:
        """Machine code for every architecture, and PTX of the last for those to come."""
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        last = self.architectures[-1]
        return [*codes, f"-gencode=arch=compute_{last},code=compute_{last}"]

    @property
    def targets(self) -> str:
        """The targets as build facts give them: sm_80 ... compute_120."""
        if not self.architectures:
            return ""
        return " ".join([*(f"sm_{a}" for a in self.architectures), f"compute_{self.architectures[-1]}"])


def find_toolchain() -> Toolchain | None:
    """Look for the compilers; None means pure Python, and says why."""
    if os.environ.get("GLORO_FAST_NO_EXTENSION", "0") not in ("", "0"):
        say("GLORO_FAST_NO_EXTENSION is set: installing pure Python, ops run as plain PyTorch")
        return None
    named = shlex.split(os.environ.get("CXX", ""))
    cxx = named or [name for name in ("c++", "g++", "clang++") if shutil.which(name)][:1]
    if not cxx or not shutil.which(cxx[0]):
        say(
            f"WARNING: no C++ compiler ({shlex.join(named) or 'c++, g++, clang++'}) found: installing pure Python, "
            f"ops run as plain PyTorch, slower. Install one (Debian: apt install g++) and repeat: {INSTALL}"
        )
        return None
    return find_cuda(tuple(cxx))


def find_cuda(cxx: tuple[str, ...]) -> Toolchain:
    """Add nvcc and the architectures to compile for, where there is one and torch can use it, or it is asked for."""
    asked = os.environ.get("GLORO_FAST_CUDA_ARCHS")
    if asked is not None and asked.strip().lower() in ("", "none"):
        return Toolchain(cxx)
    if asked is None and not torch_has_cuda():
        # Six architectures take as long as everything else together.
        say("this PyTorch has no CUDA: building the CPU part only (GLORO_FAST_CUDA_ARCHS=all compiles for GPUs too)")
        return Toolchain(cxx)
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [str(Path(home, "bin")) for home in homes if home] + [
        os.environ.get("PATH", ""),
        "/usr/local/cuda/bin",
    ]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(places))
    if nvcc is None:
        say("no nvcc found: building the CPU part only")
        return Toolchain(cxx)
    version = re.search(r"V(\d+(?:\.\d+)+)", output_of([nvcc, "--version"]))
    if asked is None or asked.strip().lower() == "all":
        known = set(re.findall(r"compute_(\w+)", output_of([nvcc, "--list-gpu-arch"])))
        architectures = tuple(a for a in DEFAULT_ARCHITECTURES if a in known)
    else:
        architectures = tuple(a.replace(".", "") for a in re.split(r"[;,\s]+", asked.strip(";, ")))
        wrong = [a for a in architectures if not re.fullmatch(r"\d{2,3}[af]?", a)]
        if wrong:
            raise stop(f'GLORO_FAST_CUDA_ARCHS: "{wrong[0]}" is no architecture; give a list such as "80;90"')
    if not architectures:
        say(f"{nvcc} knows none of {', '.join(DEFAULT_ARCHITECTURES)}: building the CPU part only")
        return Toolchain(cxx)
    return Toolchain(cxx, nvcc, version.group(1) if version else "unknown", architectures)


def torch_has_cuda() -> bool:
    """Whether the installed torch was built with CUDA; read from its file, since importing it takes seconds."""
    found = importlib.util.find_spec("torch")
    version = Path(found.origin).parent / "version.py" if found is not None and found.origin else None
    return version is not None and version.is_file() and runpy.run_path(str(version)).get("cuda") is not None


def cuda_libraries(nvcc: str) -> list[str]:
    """The link flags for the CUDA runtime in PyPI's wheels: there it lies in lib, and nvcc looks into lib64."""
    folder = Path(nvcc).resolve().parents[1] / "lib"
    return ["-L", str(folder)] if (folder / "libcudart_static.a").exists() else []


def output_of(command: list[str]) -> str:
    """What a compiler prints about itself."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise stop(f'{command[0]} does not run ({error}); repair it or set GLORO_FAST_CUDA_ARCHS="none"') from None


def check_requirements() -> None:
    """Stop with one line where the build would end in a traceback (or pip would fetch torch only to fail)."""
    if importlib.util.find_spec("torch") is None:
        raise stop(f"PyTorch is not installed: run `pip install torch`, then `{INSTALL}`")
    version = importlib.metadata.version("torch")
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers < TORCH_MINIMUM:
        raise stop(f"PyTorch {version} is too old: run `pip install -U 'torch>=2.11'`, then `{INSTALL}`")
    missing = [name for name in ("ninja", "pybind11") if importlib.util.find_spec(name) is None]
    if missing:
        raise stop(f"the build needs {' and '.join(missing)}: run `pip install {' '.join(missing)}`, then `{INSTALL}`")


class NinjaBuild(build_ext):
    """Compiles in ``build/ninja-*``, which is kept, so that only what changed is compiled again."""

    def get_ext_filename(self, fullname: str) -> str:
        """The library of ops carries no Python version in its name."""
        *packages, name = fullname.split(".")
        if name == OPS_LIBRARY:
            return str(Path(*packages, f"{OPS_LIBRARY}.so"))
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        """Compile, then put the products where setuptools wants them."""
        assert toolchain is not None
        check_requirements()
        products = compile_all(toolchain)
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            product = products.get(extension.name.rpartition(".")[2])
            if product is None:
                extension.optional = True
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # a process may have the old file mapped
            shutil.copy2(product, target)


def compile_all(tools: Toolchain) -> dict[str, Path]:
    """Write build.ninja, run it, and give the built files by name."""
    import ninja
    from ninja import ninja_syntax

    folder = ROOT / "build" / f"ninja-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "build.ninja", "w", encoding="utf-8") as file:
        writer = ninja_syntax.Writer(file, width=100000)
        write_rules(writer, tools)
        planner = write_planner(writer)
        products = [write_ops_library(writer, tools, planner), *write_build_facts(writer, tools, planner)]
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
    program = shutil.which("ninja", path=os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")]))
    if program is None:
        raise stop(f"the ninja program is missing: run `pip install --force-reinstall ninja`, then `{INSTALL}`")
    result = subprocess.run([program, "-C", str(folder), *jobs], check=False)
    if result.returncode != 0:
        raise stop(
            "the compiler failed, see its message above; without the compiled part: "
            f'GLORO_FAST_NO_EXTENSION=1 {INSTALL}, without CUDA: GLORO_FAST_CUDA_ARCHS="none" {INSTALL}'
        )
    return {product.partition(".")[0]: folder / product for product in products}


def write_rules(writer: Writer, tools: Toolchain) -> None:
    """The commands; each compilation notes the headers it read, so that a change of one compiles it again."""
    cxx = shlex.join(tools.cxx)
    noting = {"depfile": "$out.d", "deps": "gcc"}
    writer.rule("cxx", f"{cxx} -MMD -MF $out.d $flags -c $in -o $out", description="C++ $in", **noting)
    writer.rule("cxx_link", f"{cxx} -shared $in $flags -o $out", description="link $out")
    if tools.nvcc:
        nvcc = f"{shlex.quote(tools.nvcc)} -ccbin {shlex.quote(tools.cxx[-1])}"
        writer.rule("cuda", f"{nvcc} -MD -MF $out.d $flags -c $in -o $out", description="CUDA $in", **noting)
        writer.rule("cuda_link", f"{nvcc} -shared -cudart static $in $flags -o $out", description="link $out")


def write_object(writer: Writer, rule: str, source: Path, flags: list[str]) -> str:
    """One source to one object; gives the object's name."""
    name = str(source.relative_to(CSRC)).replace(os.sep, "-") + ".o"
    writer.build(name, rule, ninja_path(source), variables={"flags": ninja_flags(flags)})
    return name


def write_ops_library(writer: Writer, tools: Toolchain, planner: list[str]) -> str:
    """Kernels free of torch, their glue against torch's stable ABI, CUDA where there is nvcc."""
    torch_home = Path(importlib.util.find_spec("torch").origin).parent
    stable_abi = [f"-DTORCH_TARGET_VERSION=0x{bytes(TORCH_MINIMUM).hex()}000000000000", "-DTORCH_STABLE_ONLY"]
    glue_flags = [*CXX_FLAGS, "-isystem", str(torch_home / "include"), *stable_abi]
    glue = sorted((CSRC / "glue").glob("*.cpp"))
    link_flags = ["-L", str(torch_home / "lib"), "-ltorch_cpu"]
    objects = write_cpu_kernels(writer)
    if tools.nvcc:
        glue += sorted((CSRC / "glue" / "cuda").glob("*.cpp"))
        objects += planner
        link_flags += ["-Xlinker=--exclude-libs=ALL", *cuda_libraries(tools.nvcc)]  # the static runtime stays private
        flags = [*CUDA_FLAGS, *tools.gencode]
        objects += [write_object(writer, "cuda", source, flags) for source in sorted((CSRC / "cuda").glob("*.cu"))]
    objects += [write_object(writer, "cxx", source, glue_flags) for source in glue]
    name = f"{OPS_LIBRARY}.so"
    link = "cuda_link" if tools.nvcc else "cxx_link"
    writer.build(name, link, objects, variables={"flags": ninja_flags(link_flags)})
    return name


def write_cpu_kernels(writer: Writer) -> list[str]:
    """Each kernel file to one object; those named for an instruction set only where the processor has such."""
    objects = []
    for source in sorted([*(CSRC / "common").glob("*.cpp"), *(CSRC / "cpu").glob("*.cpp")]):
        simd = source.stem.rpartition("_")[2]
        if simd in SIMD_FLAGS and platform.machine() not in ("x86_64", "AMD64"):
            continue
        objects.append(write_object(writer, "cxx", source, [*CXX_FLAGS, *SIMD_FLAGS.get(simd, [])]))
    return objects


def write_planner(writer: Writer) -> list[str]:
    """The host's part of csrc/cuda: it plans launches, without CUDA, and so is built everywhere."""
    return [write_object(writer, "cxx", source, CXX_FLAGS) for source in sorted((CSRC / "cuda").glob("*.cpp"))]


def write_build_facts(writer: Writer, tools: Toolchain, planner: list[str]) -> list[str]:
    """The pybind11 module of facts and planner, which needs Python's headers; without them it is left out."""
    import pybind11

    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").exists():
        say("no Python.h (Debian: apt install python3-dev): building without the module of build facts")
        return []
    facts = {
        "VERSION": VERSION,
        "TORCH": importlib.metadata.version("torch"),
        "NVCC": tools.nvcc_version,
        "CUDA_ARCHITECTURES": tools.targets,
    }
    defines = [f'-DGLORO_FAST_{name}="{value}"' for name, value in facts.items()]
    flags = [*CXX_FLAGS, "-isystem", pybind11.get_include(), "-isystem", headers, *defines]
    name = BUILD_FACTS + sysconfig.get_config_var("EXT_SUFFIX")
    sources = [CSRC / "build_info.cpp", CSRC / "planner_bindings.cpp"]
    objects = [write_object(writer, "cxx", source, flags) for source in sources]
    objects += ["cpu-simd.cpp.o", "common-power_iteration_description.cpp.o"]  # compiled for the library of ops
    writer.build(name, "cxx_link", [*objects, *planner])
    return [name]


def ninja_path(path: Path) -> str:
    """A path as build.ninja wants it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja_flags(flags: list[str]) -> str:
    """Flags as build.ninja wants them, quoted for the shell."""
    return shlex.join(flags).replace("$", "$$")


VERSION = runpy.run_path(str(ROOT / "gloro_fast" / "_version.py"))["__version__"]
needs_a_build = bool(NEEDING_A_BUILD & set(sys.argv[1:]))
toolchain = find_toolchain() if needs_a_build else None
if toolchain is not None:
    check_requirements()

setup(
    packages=[
        *find_packages(include=["gloro_fast", "gloro_fast.*"]),
        "gloro_fast.kernels",
        *(f"gloro_fast.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"gloro_fast.kernels": "kernels"},
    package_data={"gloro_fast": ["py.typed"], "gloro_fast.models": ["trained/*/*"]},
    ext_modules=[Extension(f"gloro_fast.{name}", []) for name in (OPS_LIBRARY, BUILD_FACTS)] if toolchain else [],
    cmdclass={"build_ext": NinjaBuild},
)
