from __future__ import annotations

import io
import json
import sys

import pytest
import torch

from benchmarks import step_process
from benchmarks.step_process import EAGER, OURS, OURS_IN_A_GRAPH, STOCK, STOCK_IN_A_GRAPH, StepProcess, choose
from benchmarks.stock import Settings

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "settings"), [(OURS, None), (STOCK, Settings(channels_last=True))])
def test_a_step_is_done_for_every_call_and_says_where_its_time_goes(kind, settings):
    with StepProcess("2C2F", CPU, kind, settings) as step:
        step()
        found = step.device_time(calls=2, rounds=1)
        step()
    assert step.ended
    assert 0 < found.host <= found.wall
    assert found.launches is None


def test_candidates_come_with_the_fastest_first():
    candidates = {STOCK: [Settings(), Settings(fused=True)], EAGER: [Settings(channels_last=True)]}
    medians = choose("2C2F", CPU, candidates, rounds=1)
    assert {kind: set(each) for kind, each in medians.items()} == {kind: set(each) for kind, each in candidates.items()}
    for each in medians.values():
        assert list(each.values()) == sorted(each.values())


def test_what_fails_there_is_raised_here():
    with StepProcess("2C2F", CPU, "nobody") as step, pytest.raises(RuntimeError, match="no contender 'nobody'"):
        step()


@pytest.mark.parametrize("kind", [OURS_IN_A_GRAPH, STOCK_IN_A_GRAPH])
def test_the_cpu_has_no_graphs(kind, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\n"))
    step_process.main("2C2F", "cpu", json.dumps({"kind": kind, "settings": {}}))
    assert "no CUDA graphs on cpu" in capsys.readouterr().out
