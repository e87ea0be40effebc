"""Run the benchmarks, print the table and write it with its chart: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks.report import report

_HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    """Run, then report on what was run, also where some benchmark failed.

    Returns:
        pytest's exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--name", default="full", help="of the files in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no torch.compile")
    parser.add_argument("pytest_arguments", nargs="*", help="for pytest, after --; such as -k training_step")
    options = parser.parse_args(arguments)

    output = _HERE / "results" / f"{options.name}.json"
    output.parent.mkdir(exist_ok=True)
    # Beside the results that git keeps, so that a run that is killed leaves those, and one that is not does not count
    # its own file as an uncommitted change.
    unfinished = output.with_stem(f"{options.name}-unfinished")
    quick = ["--quick"] if options.quick else []
    pytest_arguments = [*quick, *options.pytest_arguments]
    fixed = [str(_HERE), "--benchmark-quiet", f"--benchmark-json={unfinished}", "--timeout=600"]
    code = pytest.main([*fixed, *pytest_arguments])
    if unfinished.exists() and unfinished.stat().st_size:
        unfinished.replace(output)
        print(report(output, shlex.join(["python", "-m", "benchmarks", *arguments])))
        print(f"Written: {', '.join(f'benchmarks/results/{output.stem}.{kind}' for kind in ('json', 'md', 'png'))}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
