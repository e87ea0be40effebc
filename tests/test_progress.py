"""What takes its time says how far it is: on a terminal in one line, elsewhere every 30 seconds."""

import io
import sys
import threading
import time

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet, progress
from gloro_fast.progress import Progress, heartbeat, tracked


class Clock:
    def __init__(self, step):
        self.now, self.step = 0.0, step

    def monotonic(self):
        self.now += self.step
        return self.now


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def stderr(monkeypatch):
    def replaced(terminal):
        stream = Stream(terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replaced


@pytest.mark.parametrize(
    ("terminal", "step", "lines"), [(True, 1.5, 5), (True, 0.01, 0), (False, 1.5, 0), (False, 8, 1)]
)
def test_bounding_a_net_says_how_far_it_is(terminal, step, lines, monkeypatch, stderr):
    stream = stderr(terminal)
    monkeypatch.setattr(progress, "time", Clock(step))
    layers = [nn.Linear(4, 4) for _ in range(7)]
    GloRoNet(nn.Sequential(*layers), 0.1, (4,)).eval().freeze()
    text = stream.getvalue()
    assert text.count("bounding the net") == lines
    if terminal and lines:
        assert "83% after 8 s, about 1 s left (5 of 6 layers, the last one 4)" in text.replace("2 s", "1 s")
        assert text.endswith("\r")


def test_nothing_stays_behind_an_error(monkeypatch, stderr):
    stream = stderr(True)
    monkeypatch.setattr(progress, "time", Clock(3))

    def interrupted():
        with Progress("at it") as tell:
            tell(1, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert stream.getvalue().endswith("\r")


def test_the_time_left_is_that_of_the_rest(monkeypatch, stderr):
    stream = stderr(False)
    monkeypatch.setattr(progress, "time", Clock(600))
    list(tracked(range(4), 4, "at it"))
    assert stream.getvalue().splitlines() == [
        "at it: 25% after 10 min, about 30 min left",
        "at it: 50% after 20 min, about 20 min left",
        "at it: 75% after 30 min, about 10 min left",
        "at it: 100% after 40 min",
    ]


@pytest.fixture
def soon(monkeypatch):
    """A tenth of a second for every 30."""
    monkeypatch.setattr(progress, "_WITHOUT_TERMINAL", 0.1)
    monkeypatch.setattr(progress, "_ON_TERMINAL", 0.1)
    monkeypatch.setattr(progress, "_BETWEEN", 0.01)


def test_what_notes_nothing_is_spoken_for(soon, stderr):
    stream = stderr(False)
    with heartbeat("working"):
        time.sleep(0.45)
        with Progress("at it") as tell:
            tell(1, 4)
            time.sleep(0.45)
    lines = stream.getvalue().splitlines()
    assert 2 <= sum(line.startswith("working: 0 s so far") for line in lines) <= 5
    assert 2 <= sum(line.startswith("at it: 25% after 0 s, about ") for line in lines) <= 5
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())


def test_on_a_terminal_no_heart_beats_for_the_whole(soon, stderr):
    stream = stderr(True)
    with heartbeat("working"):
        time.sleep(0.3)
    assert stream.getvalue() == ""


def test_on_a_terminal_the_seconds_of_what_notes_nothing_are_shown(soon, stderr, monkeypatch):
    stream = stderr(True)
    monkeypatch.setattr(progress, "_ON_TERMINAL", 0.05)
    monkeypatch.setattr(progress, "_PATIENCE", 0.2)
    with heartbeat("working"):
        with Progress("short"):
            time.sleep(0.1)
        with Progress("reading"):
            time.sleep(0.6)
    assert (
        2 <= stream.getvalue().count("\rreading: 0 s so far") + stream.getvalue().count("\rreading: 1 s so far") <= 10
    )
    assert "working" not in stream.getvalue()
    assert "short" not in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_a_bar_of_rich_is_not_written_over(soon, stderr, monkeypatch):
    stream = stderr(True)
    monkeypatch.setattr(stream, "rich_proxied_file", sys.__stderr__, raising=False)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with Progress("at it") as tell:
        time.sleep(0.15)
        tell(1, 2)
        tell(1, 2)
    assert stream.getvalue() == "at it: 50% after 0 s, about 0 s left\n"


def test_short_work_within_does_not_put_off_the_line(monkeypatch, stderr):
    stream = stderr(False)
    clock = Clock(10)
    monkeypatch.setattr(progress, "time", clock)
    with Progress("outer") as outer:
        for step in range(1, 8):
            with Progress("inner") as inner:
                inner(1, 1)
            outer(step, 10)
    assert stream.getvalue().count("\n") == clock.now // 30


@pytest.mark.parametrize("attack", ["PGD", "AutoAttack"])
def test_attacks_say_how_far_they_are(attack, soon, stderr, monkeypatch):
    pytest.importorskip("art", reason="attacks need the toolbox: install gloro-fast[attack]")
    from gloro_fast.evaluate.attack import pgd
    from gloro_fast.evaluate.auto_attack import auto_attack

    stream = stderr(False)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_WITHOUT_TERMINAL", 0.0)
    torch.manual_seed(0)
    net = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 0.1, (1, 4, 4)).eval()
    images, labels = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    {"PGD": pgd, "AutoAttack": auto_attack}[attack](net, images, labels, 0.1, steps=4, restarts=2, batch_size=4)
    lines = [line for line in stream.getvalue().splitlines() if not line.startswith("bounding")]
    if attack == "PGD":
        # Four steps from each of two starts, in two batches.
        assert lines[0].startswith("PGD: 8% after")
        assert sum("100%" not in line for line in lines) >= 12
    else:
        assert lines[0].startswith("AutoAttack: 0 s so far")
