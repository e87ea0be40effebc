"""Training in bfloat16 where there is no such arithmetic is warned of before it begins."""

import platform
import warnings

import pytest
import torch
from tiny_run import tiny_data, tiny_recipe

from gloro_fast.train import Trainer
from gloro_fast.train.bfloat16 import warn_if_emulated


@pytest.fixture
def processor(monkeypatch):
    def make(machine, *, avx512_bf16=False, onednn=True):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        # An operator of torch cannot be replaced; the namespace that holds it can.
        fake = type("Namespace", (), {"_is_mkldnn_bf16_supported": staticmethod(lambda: onednn)})
        monkeypatch.setattr(torch.ops, "mkldnn", fake)

    return make


def warned(precision, folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(tiny_recipe(precision=precision), tiny_data(), folder)
    return [str(warning.message) for warning in caught if "bfloat16" in str(warning.message)]


@pytest.mark.parametrize(
    ("machine", "instructions", "count"),
    [
        # oneDNN says yes to every AVX-512, where it emulates.
        ("x86_64", {"avx512_bf16": False, "onednn": True}, 1),
        ("x86_64", {"avx512_bf16": True}, 0),
        ("aarch64", {"onednn": False}, 1),
        ("aarch64", {"onednn": True}, 0),
    ],
)
def test_processors_without_the_instructions(machine, instructions, count, processor, tmp_path):
    processor(machine, **instructions)
    found = warned("bfloat16", tmp_path / "run")
    assert len(found) == count
    for line in found:
        assert "this processor has no bfloat16 arithmetic" in line
        assert "--precision float32" in line
        assert "\n" not in line


def test_float32_is_nothing_to_warn_of(processor, tmp_path):
    processor("x86_64")
    assert warned("float32", tmp_path / "run") == []


@pytest.mark.parametrize(("capability", "count"), [((7, 5), 1), ((8, 0), 0), ((9, 0), 0)])
def test_gpus_before_ampere(capability, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.version, "hip", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_emulated(torch.device("cuda", 0))
    assert len(caught) == count
    assert all("Tesla T4 has no bfloat16 arithmetic" in str(warning.message) for warning in caught)


def test_the_instructions_of_this_processor_can_be_asked_for():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_emulated(torch.device("cpu"))
    assert len(caught) <= 1
