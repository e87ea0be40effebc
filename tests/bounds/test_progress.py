"""A bound that takes its time says how far it is: on a terminal in one line, elsewhere every 30 seconds."""

import io
import sys

import pytest
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.bounds import progress


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


@pytest.mark.parametrize(
    ("terminal", "step", "lines"), [(True, 1.5, 5), (True, 0.01, 0), (False, 1.5, 0), (False, 8, 1)]
)
def test_it_says_how_far_it_is(terminal, step, lines, monkeypatch):
    stream = Stream(terminal)
    monkeypatch.setattr(progress, "time", Clock(step))
    monkeypatch.setattr(sys, "stderr", stream)
    layers = [nn.Linear(4, 4) for _ in range(7)]
    GloRoNet(nn.Sequential(*layers), 0.1, (4,)).eval().freeze()
    text = stream.getvalue()
    assert text.count("bounding the net") == lines
    if terminal and lines:
        assert "5 of 6 layers after 8 s, the last one 4" in text
        assert text.endswith("\r")


def test_nothing_stays_behind_an_error(monkeypatch):
    stream = Stream(True)
    monkeypatch.setattr(progress, "time", Clock(3))
    monkeypatch.setattr(sys, "stderr", stream)

    def interrupted():
        with progress.Progress() as tell:
            tell(1, 2, "0")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert stream.getvalue().endswith("\r")
