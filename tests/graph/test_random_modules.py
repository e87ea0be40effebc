"""Random modules as people write them: what a GloRo net accepts does what its module does, within its bound.

``python -m tests.graph.fuzz_modules --count 1000`` tries more, ``--alone`` every piece by itself.
"""

import functools
import os

import pytest
import torch
from fuzz_modules import examine
from random_modules import case_of, random_case

from gloro_fast import GloRoNet

MODULES = int(os.environ.get("GLORO_FAST_FUZZ_MODULES", "36"))


def varied(count):
    """The numbers of ``count`` cases, each the one of very many that adds the most pieces to those before it."""
    pieces = {seed: set(random_case(seed).features) for seed in range(4 * count)}
    seen, chosen = set(), []
    for _ in range(count):
        chosen.append(max(pieces, key=lambda seed: len(pieces[seed] - seen)))
        seen |= pieces.pop(chosen[-1])
    return chosen


@functools.cache
def outcomes():
    return {seed: examine(random_case(seed)) for seed in varied(MODULES)}


def test_nets_do_what_their_modules_do():
    wrong = {seed: outcome.wrong for seed, outcome in outcomes().items() if outcome.wrong}
    assert not wrong


def test_what_is_legal_is_accepted():
    legal = [(seed, outcome) for seed, outcome in outcomes().items() if outcome.case.legal]
    assert len(legal) > MODULES / 2
    assert {seed: outcome.refusal for seed, outcome in legal if outcome.refusal} == {}


def test_slopes_come_near_to_the_bounds():
    accepted = [outcome for outcome in outcomes().values() if not outcome.refusal and not outcome.wrong]
    assert sum(outcome.reached > 0.5 for outcome in accepted) > len(accepted) / 4


def too_small(net):
    return GloRoNet._true_differences.fget(net) / 2


def another_answer(net, x, *args):
    return GloRoNet._true_forward(net, x, *args) * (1.0 if len(x) != 5 else 1.001)


@pytest.mark.parametrize(
    ("name", "planted", "kept", "words"),
    [
        ("difference_bounds", property(too_small), "_true_differences", "times the bound"),
        ("forward", another_answer, "_true_forward", "on 5 images"),
    ],
)
def test_a_planted_bug_is_found(monkeypatch, name, planted, kept, words):
    monkeypatch.setattr(GloRoNet, kept, getattr(GloRoNet, name), raising=False)
    monkeypatch.setattr(GloRoNet, name, planted)
    found = [examine(case_of("a dense layer", seed)).wrong for seed in range(8)]
    assert any(words in line for lines in found for line in lines)


def test_random_modules_repeat():
    for seed in range(8):
        torch.manual_seed(1)
        first = random_case(seed)
        torch.manual_seed(2)
        again = random_case(seed)
        assert first.features == again.features
        assert str(first.module) == str(again.module)
        for one, other in zip(first.module.parameters(), again.module.parameters(), strict=True):
            assert torch.equal(one, other)
