"""Run the stages of a visit to a GPU machine: ``python -m benchmarks.gpu --help``. Needs nothing but Python itself."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.stages import STAGES, USUAL, Visit, run

_TAIL = 25


def main(arguments: list[str]) -> int:
    """Run the stages in the order given, each with its limit, and write their output and a summary.

    Returns:
        0 if all of them ended well, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:12} {stage.seconds:4.0f} s  {stage.what}" for name, stage in STAGES.items()),
    )
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"of those below; if none: {' '.join(USUAL)}")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for all output")
    parser.add_argument("--device", default="cuda", help="as torch names it")
    parser.add_argument("--fast", action="store_true", help="one call of everything, small: does it run?")
    parser.add_argument("--brought", type=Path, help="folder that `python -m benchmarks.gpu.bring` filled elsewhere")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.stages if name not in STAGES]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r}; choose from {', '.join(STAGES)}")

    # Whoever stops the visit stops its stage too, which has a session of its own.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options.out.mkdir(parents=True, exist_ok=True)
    brought = options.brought or Path()
    has_wheel = any((brought / "wheels").glob("gloro_fast-*.whl"))
    data = _unpacked(brought / "data").resolve()
    visit = Visit(options.device, options.fast, options.out.resolve(), data, has_wheel)
    summary: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as fresh:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TRITON_CACHE_DIR": fresh}
        if (architecture := _architecture()) is not None:
            environment.setdefault("GLORO_FAST_CUDA_ARCHS", architecture)
        if options.brought is not None:
            environment["PYTHONPATH"] = _installed(options.brought, visit.out)
        if has_wheel:
            # What lies in the project's root is otherwise found first.
            environment |= {
                "PYTHONSAFEPATH": "1",
                "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], os.getcwd()]),
            }
        start = time.monotonic()
        for name in options.stages or USUAL:
            print(f"== {name}, {time.monotonic() - start:.0f} s after the start", flush=True)
            summary[name] = outcome = run(name, STAGES[name], visit, environment)
            _print_tail(visit.out / f"{name}.txt")
            print(f"   {name}: {outcome['status']} after {outcome['seconds']} s", flush=True)
            (visit.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return int(any(outcome["status"] != 0 for outcome in summary.values()))  # type: ignore[index]


def _architecture() -> str | None:
    """The first GPU's, as the build names it; None without one."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.split("\n")[0].strip().replace(".", "") or None


def _installed(brought: Path, out: Path) -> str:
    """Install the wheels that were brought beside the machine's own packages; the search path with them."""
    site = out / "site"
    wheels = sorted(str(wheel) for wheel in (brought / "wheels").glob("*.whl"))
    if wheels and not site.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
        subprocess.run([*pip, *wheels], check=True)
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


def _unpacked(data: Path) -> Path:
    """Unpack the archives among the data, each into a folder of its name; return ``data``."""
    for archive in data.glob("*.tar.*"):
        folder = data / archive.name.partition(".")[0]
        if not folder.exists():
            with tarfile.open(archive) as content:
                content.extractall(folder, filter="data")
    return data


def _print_tail(path: Path) -> None:
    if path.exists():
        for line in path.read_text(errors="replace").splitlines()[-_TAIL:]:
            print(f"   {line[:200]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
