from __future__ import annotations

import sys

import pytest

import gloro_fast.serve as room


def test_a_run_is_served_by_what_the_options_say(invoke, trained, monkeypatch):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    called = []
    monkeypatch.setattr(room, "run_server", lambda *arguments: called.append(arguments))
    result = invoke("serve", trained, "--port", "81", "--timeout", "7", "--threads", "1", "--method", "trivial")
    assert result.exit_code == 0, result.output
    ((app, *rest),) = called
    assert rest == ["127.0.0.1", 81, 7.0]
    assert "/certify" in app.openapi()["paths"]
    assert "serving digits on http://127.0.0.1:81" in result.stderr


def test_a_missing_package_is_named_with_its_extra(refused, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'gloro-fast[serve]'" in refused("serve", trained)


def test_a_run_that_is_not_there_is_refused(refused, tmp_path):
    pytest.importorskip("fastapi")
    assert "no run folder" in refused("serve", tmp_path / "none")
