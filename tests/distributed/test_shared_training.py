"""A run shared by two processes is that of one, but for last bits; both stop together, and one says why."""

import json
import sys
from pathlib import Path

import processes
import pytest
import torch

HERE = Path(__file__).parent
TRAIN = str(HERE.parent / "train")
sys.path.append(TRAIN)

from tiny_run import tiny_data, tiny_recipe  # noqa: E402

from gloro_fast.train import Trainer  # noqa: E402
from gloro_fast.train.observers import curves  # noqa: E402


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(curves, "draw", lambda rows, path: path.write_bytes(b""))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of the runs, and what each of two processes found."""
    out = tmp_path_factory.mktemp("shared")
    ends = processes.wait(processes.start(2, [str(HERE / "shared_runs.py"), str(out)], [TRAIN]))
    # The first is killed in the end.
    assert [code for code, _, _ in ends] == [-9, 0], "\n".join(err for _, _, err in ends)
    assert "VRA at 0.3: " in ends[0][1]
    return out, [json.loads(text.splitlines()[-1]) for _, text, _ in ends]


def test_weights_iterates_and_moments_are_the_same_bits_in_both(shared):
    _, (first, second) = shared
    assert first["eager"] == second["eager"]
    assert first["rows"] == second["rows"]
    assert first["vra"] == second["vra"]


def test_one_process_sees_the_same_images_in_the_same_batches(shared, tmp_path):
    _, (first, _) = shared
    fields = {"warmup_epochs": 1, "augmentation": "default", "noise": 0.1, "epochs": 2}
    alone = Trainer(tiny_recipe(**fields), tiny_data(train=65), tmp_path / "alone")
    result = alone.fit()
    for row, (loss, clean, vra, lipschitz) in zip(alone.state.rows, first["rows"], strict=True):
        assert [loss, clean] == pytest.approx([row.loss, row.train_clean], rel=1e-4)
        assert vra == row.train_vra
        assert lipschitz == (None if row.lipschitz is None else pytest.approx(row.lipschitz, rel=1e-4))
    for weight, its in zip(alone.net.parameters(), first["weights"], strict=True):
        torch.testing.assert_close(weight.flatten()[:4], torch.tensor(its), rtol=1e-3, atol=1e-5)
    assert abs(result.vra - first["vra"]) <= 1 / 40


def test_captured_in_two_pieces_with_the_sum_between_them_the_bits_are_the_same(shared):
    _, (first, second) = shared
    assert first["replays"] > 20
    assert first["resident"] == first["streamed"] == first["as they come"]
    assert second["resident"] == second["streamed"] == first["as they come"]


def test_both_stop_at_the_step_at_which_one_was_told_to(shared):
    _, found = shared
    # It was told after step 2; the other hears of it in the next.
    assert [one["stopped"] for one in found] == [[15, 1, 3]] * 2


def test_a_full_disk_ends_both_with_one_reason_and_the_run_goes_on_to_the_same_bits(shared):
    _, (first, second) = shared
    kind, text = first["full"]
    assert kind == "CheckpointError"
    assert "checkpoint.safetensors" in text
    assert second["full"] == ["PeerError", "process 0 of 2 has failed, and has said why"]
    assert first["epoch kept"] == second["epoch kept"] == 2
    assert first["resumed"] == second["resumed"] == first["whole"]


def test_what_is_wrong_in_one_or_in_all_is_said_once(shared):
    _, (first, second) = shared
    assert first["diverged"][0] == "DivergenceError"
    assert second["diverged"][0] == "PeerError"
    assert second["other data"] == [
        "DataError",
        "stripes as process 1 finds it is not what the first has; copy the same",
    ]
    assert first["other data"][0] == "PeerError"
    for name, start in {"in use": "run folder", "small batch": "a batch of 1 images cannot be shared by 2"}.items():
        assert first[name][0] == "ConfigError"
        assert first[name][1].startswith(start)
        assert second[name][0] == "PeerError"


def test_another_number_of_processes_goes_on_and_says_so(shared):
    out, _ = shared
    with pytest.warns(UserWarning, match="started by 2 processes and goes on with 1: the batches are the same"):
        trainer = Trainer.resume(out / "killed", tiny_data(train=75))
    assert trainer.config.processes == 2
    # Killed in the save after the second epoch, it goes on in the middle of that, where it had stopped before.
    assert (trainer.state.epoch, trainer.state.batch) == (1, 2)
    trainer.fit()
    assert len(trainer.state.rows) == trainer.epochs
    assert not list((out / "killed").glob(".*.tmp"))


def test_a_process_killed_in_a_save_is_missed_at_once(shared):
    _, (_, second) = shared
    assert second["lost"].startswith("another process of the group has ended or does not answer (")


def test_ddp_around_a_net_is_training_on_whole_batches(shared):
    _, found = shared
    for one in found:
        assert one["wrapped"]["ddp"]["off by"] < 1e-5
        assert one["wrapped"]["ddp"]["differ"] == 0


def test_fsdp_around_a_net_trains_it_and_a_shard_of_it_is_refused(shared):
    _, found = shared
    for one in found:
        wrapped = one["wrapped"]
        assert wrapped["fsdp off by"] < 1e-4
        for name in ("sharded certify", "sharded again", "part sharded", "sharded before"):
            assert (
                "holds but its process's shard of the weights (DTensor); give fully_shard the GloRoNet" in wrapped[name]
            )
