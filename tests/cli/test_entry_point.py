from __future__ import annotations

import subprocess
import sys

import gloro_fast
from gloro_fast.cli.files import to_json


def test_python_m_gloro_fast_exits_with_2_after_one_line():
    command = [sys.executable, "-m", "gloro_fast", "recipes", "digit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: there is no recipe 'digit'; did you mean 'digits'?\n"
    assert done.stdout == ""


def test_version_and_help(invoke):
    assert invoke("--version").stdout.strip() == f"gloro-fast {gloro_fast.__version__}"
    shown = invoke("--help")
    assert shown.exit_code == 0
    assert all(command in shown.stdout for command in ("train", "certify", "evaluate", "recipes", "info"))


def test_json_has_no_number_that_json_does_not_know():
    assert to_json({"radius": [float("inf"), 0.5]}).split() == ["{", '"radius":', "[", '"inf",', "0.5", "]", "}"]


def test_verbose_says_what_took_the_time_of_a_bound(invoke, run):
    lines = invoke("--verbose", "certify", run).stderr.splitlines()
    assert lines[-1].startswith("bounded 7 layers, ")
    assert any("by cholesky: " in line and "operations)" in line for line in lines)
    assert "bounded" not in invoke("certify", run).stderr


def test_help_waits_for_nothing_heavy():
    """torch takes more than a second to import, and four on a busy machine."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from gloro_fast.cli import app\n"
        "commands = [command.callback.__name__.replace('_', '-') for command in app.registered_commands]\n"
        "for arguments in (['--help'], ['--version'], ['recipes'], *([name, '--help'] for name in commands)):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments\n"
        "print(*sorted({'torch', 'numpy', 'scipy', 'matplotlib'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
