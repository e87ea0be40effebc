"""TF32 in training: the process's switches within a run, and as they were after it."""

import itertools
import json
import tomllib

import pytest
import torch
from tiny_run import tiny_data, tiny_recipe

from gloro_fast.errors import ConfigError
from gloro_fast.train import Observer, Trainer
from gloro_fast.train.tf32 import allowed, tf32

VALUES = ("none", "ieee", "tf32")


def switches():
    return torch.backends, torch.backends.cudnn, torch.backends.cudnn.conv, torch.backends.cuda.matmul


def set_switches(values):
    for switch, value in zip(switches(), values, strict=True):
        switch.fp32_precision = value


def shown():
    return tuple(switch.fp32_precision for switch in switches())


@pytest.fixture(autouse=True)
def as_torch_begins():
    untouched = ("none", "none", "tf32", "none")
    set_switches(untouched)
    torch.backends.cudnn.allow_tf32 = True
    yield
    set_switches(untouched)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("values", list(itertools.product(VALUES, repeat=4)), ids="-".join)
def test_switches_are_as_before_afterwards(values, wanted):
    """Also whether they follow those above them, which only setting those shows."""
    set_switches(values)
    before, within = shown(), []
    with pytest.raises(KeyError), tf32(wanted):
        {}[within.append(shown()[2:])]
    assert within == [(("tf32", "tf32") if wanted else ("ieee", "ieee"))]
    assert shown() == before
    for above in VALUES:
        torch.backends.cudnn.fp32_precision = above
        torch.backends.fp32_precision = "none"
        assert shown()[2:] == tuple(above if own == "none" else own for own in values[2:])


@pytest.mark.parametrize("old", [True, False])
def test_the_old_switches_say_afterwards_what_they_said(old):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = old
    with tf32(not old):
        assert shown()[2:] == (("ieee", "ieee") if old else ("tf32", "tf32"))
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is old
    torch.backends.cuda.matmul.allow_tf32 = False


def test_nothing_is_changed_where_nobody_says_so():
    before = shown()
    with tf32(None):
        assert shown() == before


def test_what_is_allowed_is_named():
    assert allowed() == "convolutions"
    set_switches(("none", "none", "tf32", "tf32"))
    assert allowed() == "convolutions and matrix products"
    set_switches(("none", "none", "ieee", "tf32"))
    assert allowed() == "matrix products"
    set_switches(("tf32", "ieee", "none", "none"))
    assert allowed() == "nothing"


class Looking(Observer):
    def __init__(self, stops=False):
        self.seen, self.stops = set(), stops

    def on_step(self, step):
        self.seen.add(shown()[2:])
        if self.stops:
            raise KeyError("stopped")


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize(
    ("wanted", "within", "name"),
    [(True, ("tf32", "tf32"), "on"), (False, ("ieee", "ieee"), "off"), (None, ("tf32", "none"), "torch")],
)
def test_a_run_sets_them_for_its_steps_and_goes_on_as_it_began(tmp_path, wanted, within, name, stops):
    before, observer = shown(), Looking(stops)
    trainer = Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path, observers=[observer], tf32=wanted)
    assert shown() == before
    if stops:
        with pytest.raises(KeyError, match="stopped"):
            trainer.fit()
        assert (observer.seen, shown()) == ({within}, before)
        again = Looking()
        trainer = Trainer.resume(tmp_path, tiny_data(), observers=[again])
        trainer.fit()
        assert again.seen == {within}
    else:
        trainer.fit()
        assert observer.seen == {within}
    assert shown() == before
    assert tomllib.loads(trainer.folder.config.read_text())["tf32"] == name
    assert json.loads(trainer.folder.result.read_text())["tf32"] == "nothing, on cpu"


def test_what_is_no_choice_is_refused(tmp_path):
    trainer = Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path)
    text = trainer.config.to_toml()
    assert 'tf32 = "torch"' in text
    with pytest.raises(ConfigError, match="tf32 is 'yes'; choose on, off or torch"):
        type(trainer.config).from_toml(text.replace('tf32 = "torch"', 'tf32 = "yes"'))
    assert type(trainer.config).from_toml(text.replace('tf32 = "torch"\n', "")).allows_tf32 is None
