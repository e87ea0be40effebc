from __future__ import annotations

import subprocess
import sys
import types

import pytest

from gloro_fast.data import NAMES, load
from gloro_fast.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mnits", "mnist"), ("cifar", "cifar10"), ("MNIST", "mnist"), ("fashionmnist", "fashion-mnist")],
)
def test_an_unknown_name_gives_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=f"unknown data set '{name}'; did you mean '{nearest}'"):
        load(name)


def test_a_path_that_is_not_there_is_a_data_error(tmp_path):
    for name in ("nothing.npz", str(tmp_path / "nothing")):
        with pytest.raises(DataError, match=r"neither a .npz file nor an image folder"):
            load(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_a_data_set_without_its_folder_says_what_is_needed(name, tmp_path):
    with pytest.raises(DataError, match="needs --data-dir"):
        load(name)
    with pytest.raises(DataError, match="nowhere does not exist"):
        load(name, tmp_path / "nowhere")


def test_without_torchvision_the_files_to_get_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name, files in (("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("cifar10", "cifar-10-python")):
        with pytest.raises(DataError, match=f"downloading {name} needs torchvision.*put .*{files}.*yourself"):
            load(name, tmp_path, download=True)


class Broken:
    """A torchvision that does not fit its torch: it fails with RuntimeError, not ImportError."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")


def test_a_broken_torchvision_is_no_traceback(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(DataError, match="nms does not exist"):
        load("mnist", tmp_path, download=True)


def test_torchvision_is_asked_for_both_parts_only_when_they_are_missing(monkeypatch, tmp_path):
    asked = []

    def fetch(root, train, download):
        asked.append((root, train, download))
        raise OSError("no network")

    torchvision = types.ModuleType("torchvision")
    torchvision.datasets = types.SimpleNamespace(MNIST=fetch)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    with pytest.raises(DataError, match=r"download of mnist failed \(no network\); put the four"):
        load("mnist", tmp_path, download=True)
    assert asked == [(str(tmp_path), True, True)]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="is missing"):
        load("mnist", tmp_path, download=True)
    assert len(asked) == 1


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, gloro_fast.data; print({'torchvision', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
