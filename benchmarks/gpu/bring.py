"""Fill a folder with what a GPU machine without registries lacks: ``python -m benchmarks.gpu.bring --help``."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

LACKING = ("tomli-w", "setuptools<82", "wheel", "adversarial-robustness-toolbox")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(arguments: list[str]) -> None:
    """Download wheels for the other machine's Python, and copy the data."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.bring", description=__doc__)
    parser.add_argument("folder", type=Path, help="to fill; git must not know it")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="*",
        default=[],
        help="folders of data, such as that with MNIST/raw, and archives of images: cifar10.tar.xz with train/CLASS/*",
    )
    parser.add_argument(
        "--wheel", type=Path, help="of this package, for that machine; without one it is compiled there"
    )
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument("--lacking", nargs="*", default=LACKING, help=f"if not {' '.join(LACKING)}")
    options = parser.parse_args(arguments)

    wheels = options.folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    if options.lacking:
        platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        target = ["--python-version", options.python, "--implementation", "cp", *platforms, "--dest", str(wheels)]
        subprocess.run([*pip, *target, *options.lacking], check=True)
    if options.wheel is not None:
        shutil.copy(options.wheel, wheels)
    for data in options.data:
        if data.is_dir():
            shutil.copytree(data, options.folder / "data", dirs_exist_ok=True)
        else:
            (options.folder / "data").mkdir(exist_ok=True)
            shutil.copy(data, options.folder / "data")
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}: {size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
