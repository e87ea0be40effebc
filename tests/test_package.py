"""The package's own names: loaded when they are asked for, and the same ones whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gloro_fast


def test_every_public_name_is_there_and_listed():
    for name in gloro_fast.__all__:
        assert getattr(gloro_fast, name) is not None
        assert name in dir(gloro_fast)
    with pytest.raises(AttributeError, match="module 'gloro_fast' has no attribute 'nonsense'"):
        gloro_fast.nonsense  # noqa: B018


def test_a_function_is_not_hidden_by_its_module():
    names = ["revert", "convert", "GloRoNet", "nn"]
    # Each is the first in a process that has imported nothing but torch, which takes a second.
    code = (
        "import os, sys, torch\n"
        "for first in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        import gloro_fast\n"
        "        getattr(gloro_fast, first)\n"
        "        from gloro_fast import convert, revert\n"
        "        print(first, callable(convert), callable(revert), callable(gloro_fast.convert))\n"
        "        break\n"
        "    os.wait()\n"
    )
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.splitlines(), done.stderr) == ([f"{name} True True True" for name in names], "")


def test_the_package_itself_loads_nothing():
    code = "import sys, gloro_fast\nprint('torch' in sys.modules, gloro_fast.__version__)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == f"False {gloro_fast.__version__}\n"
