"""Deterministic algorithms on a GPU, for as long as a run trains."""

import os

import pytest
import torch
from tiny_run import tiny_data, tiny_recipe

from gloro_fast.train import Trainer, determinism
from gloro_fast.train import trainer as trainer_module
from gloro_fast.train.determinism import deterministic

GPU = torch.device("cuda", 0)


def settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_settings_are_as_before_afterwards(monkeypatch, before, workspace):
    if workspace is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    untouched = settings()
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        found = settings()
        within = []
        with pytest.raises(KeyError), deterministic(GPU):
            {}[within.append(settings())]
        assert within == [(True, False, True, False, False, workspace or ":4096:8")]
        assert settings() == found
    finally:
        torch.use_deterministic_algorithms(untouched[0], warn_only=untouched[1])


@pytest.mark.parametrize(("device", "wanted"), [(torch.device("cpu"), True), (GPU, False)])
def test_nothing_is_changed_on_the_cpu_or_where_nobody_wants_it(device, wanted):
    found = settings()
    with deterministic(device, wanted):
        assert settings() == found


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_asks_for_it_and_goes_on_as_it_began(tmp_path, monkeypatch, wanted):
    asked = []
    plain = determinism.deterministic

    def spy(device, wanted):
        asked.append(wanted)
        return plain(device, wanted)

    monkeypatch.setattr(trainer_module, "deterministic", spy)
    trainer = Trainer(tiny_recipe(epochs=1), tiny_data(), tmp_path, deterministic=wanted)
    trainer._open_folder()
    assert Trainer.resume(tmp_path, tiny_data()).config.deterministic is wanted
    trainer.fit()
    assert asked == [wanted]
