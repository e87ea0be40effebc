from __future__ import annotations

from gloro_fast.doctor import examination
from gloro_fast.native import extension


def test_without_a_gpu_it_says_so_and_checks_the_cpu(invoke, monkeypatch):
    monkeypatch.setattr(examination, "_CHECKS", {"fingerprint": examination._CHECKS["fingerprint"]})
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert "no GPU" in result.stdout
    assert ("right" if extension.available() else "PyTorch reference") in result.stdout


def test_a_wrong_kernel_is_shown_and_fails_the_command(invoke, monkeypatch):
    monkeypatch.setattr(extension, "why_not", lambda: None)
    monkeypatch.setattr(examination, "_CHECKS", {"minmax": lambda device: iter([None, "it is wrong"])})
    result = invoke("doctor", "--device", "cpu")
    assert result.exit_code == 1
    assert "WRONG: it is wrong" in result.stdout
