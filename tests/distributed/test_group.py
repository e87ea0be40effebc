"""What processes of a group know of each other, do together, and hear of one that has ended."""

import json
import os
import signal
from pathlib import Path

import processes
import pytest
import torch
import torch.distributed as dist

from gloro_fast.distributed import ALONE, Group, current, joined, restarts, shared_memory
from gloro_fast.errors import ConfigError, DistributedError


def test_three_processes_do_things_together():
    ends = processes.wait(processes.start(3, [str(Path(__file__).with_name("working_together.py"))]))
    # The last was killed, the second waited for that outside of the group.
    assert [code for code, _, _ in ends] == [0, -signal.SIGTERM, -signal.SIGKILL], [err for _, _, err in ends]
    found = [json.loads(out) for _, out, _ in ends]
    for one in found:
        assert one["sum"] == [3.0, 3.0]
        assert one["greatest"] == 20
        assert one["told"] == {"from": 0}
        assert one["followed"] == [1.0]
    rows = [1, 1, 2, 2, 2, 2]
    flags = [False, True, False, True, False, False]
    assert [one["gathered"] for one in found] == [[rows, flags], None, None]
    quiet = ["PeerError", "process 2 of 3 has failed, and has said why"]
    quiet_of_1 = ["PeerError", "process 1 of 3 has failed, and has said why"]
    assert [one["raised"] for one in found] == [
        [None, quiet, quiet_of_1],
        [None, quiet, ["ConfigError", "wrong in 1"]],
        [None, ["ConfigError", "wrong in 2"], quiet_of_1],
    ]
    shares = shared_memory.may_share(torch.zeros(1))
    for one in found:
        assert one["in shared memory"] == shares
        assert one["wrong"] == [] or not shares
        assert one["counted"] == [[3, 3], [6, 3 * 2**40]]
        assert one["refused"] == [True, 3]
    for one in found[:2]:
        in_sum, in_barrier = one["lost"]
        assert "process 2 of 3 is gone" in in_sum or not shares
        for text in (in_sum, in_barrier):
            assert text.startswith("another process of the group has ended or does not answer (")
            assert "\n" not in text


def test_a_process_by_itself_is_a_group_that_costs_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined("cuda") as group:
        assert group is ALONE is current()
        assert not dist.is_initialized()
    tensor = torch.arange(3)
    assert group.is_main
    assert group.sum_(tensor) is tensor is group.gather(tensor)
    assert group.greatest(7) == 7
    assert group.summing(tensor)() is tensor
    group.barrier()
    group.follow([tensor])
    with pytest.raises(ConfigError, match="as it is"), group.together():
        raise ConfigError("as it is")


def test_half_of_what_torchrun_tells_is_no_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # as an sbatch file may export it
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with joined() as group:
        assert group is ALONE


def test_memory_is_shared_for_what_gains_by_it():
    assert not shared_memory.may_share(torch.zeros(0))
    assert not shared_memory.may_share(torch.zeros(2, 2).T[:1])
    assert not shared_memory.may_share(torch.zeros(1, device="meta"))
    assert not shared_memory.may_share(torch.zeros(1).expand(2**25))


def test_memory_of_another_machine_is_not_taken_for_the_groups():
    descriptor, (process, number, name) = shared_memory.create(torch.zeros(3), 2)
    with open(descriptor, "rb"):
        again = shared_memory.attach((process, number, name))
        assert os.fstat(again).st_ino == os.fstat(descriptor).st_ino
        os.close(again)
        with pytest.raises(FileNotFoundError):
            shared_memory.attach((process, number, "/memfd:gloro_fast-0 (deleted)"))


@pytest.mark.parametrize("count", [0, 1, 5, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_balanced_and_make_up_all(count, size):
    shares = [Group(rank, size).share(count) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_too_many_processes_for_the_gpus_are_refused(monkeypatch):
    told = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    with pytest.raises(DistributedError, match=r"this torch has no NCCL.*use --device cpu"), joined("cuda"):
        pass
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DistributedError, match=r"process 1 .* no GPU.*--nproc-per-node 1 or less"), joined("cuda"):
        pass


def test_restarts_are_what_torchrun_counts(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert restarts() == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert restarts() == 2
