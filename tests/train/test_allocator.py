from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from gloro_fast.data import DataSet, Split
from gloro_fast.recipes import Recipe
from gloro_fast.train import Trainer
from gloro_fast.train.allocator import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, sys
import torch
from gloro_fast.train.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

told = keep_freed_memory() if sys.argv[1] == "keep" else None
print(told, min((faults() for _ in range(int(sys.argv[2]))), default=0))
"""


def run(mode: str, rounds: int, **environment: str) -> tuple[str, int]:
    command = [sys.executable, "-c", FAULTS, mode, str(rounds)]
    kept = {"PATH": "/usr/bin:/bin", **environment}
    told, faults = subprocess.run(command, capture_output=True, text=True, check=True, env=kept).stdout.split()
    return told, int(faults)


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_freed_memory_is_not_mapped_anew():
    pages = (256 << 20) // resource.getpagesize()
    told, faults = run("keep", 3)
    assert told == "True"
    assert faults < pages / 100


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_the_users_own_settings_stand():
    told, _ = run("keep", 0, MALLOC_TRIM_THRESHOLD_="131072")
    assert told == "False"


def test_another_c_library_is_left_alone(monkeypatch):
    class Library:
        def __init__(self, name):
            pass

    monkeypatch.setattr("ctypes.CDLL", Library)
    assert not keep_freed_memory()


def test_a_trainer_leaves_the_process_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", None)
    split = Split(torch.zeros(4, 1, 8, 8), torch.arange(4) % 2)
    recipe = Recipe("own", "own", "2C2F", epochs=1, epsilon=0.1, epsilon_train=0.1, batch_size=2)
    trainer = Trainer(recipe, DataSet("own", split, split, ("a", "b")), tmp_path)
    trainer.step(split.images, split.labels)
