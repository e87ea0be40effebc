"""What each of three processes does in ``test_group``; prints one line of JSON."""

import json
import os
import signal
import time
from contextlib import suppress
from functools import partial

import torch

from gloro_fast.distributed import joined, shared_memory
from gloro_fast.errors import ConfigError, DistributedError, PeerError

found = {}


def lost(act):
    try:
        act()
    except DistributedError as error:
        return str(error)
    return ""


def refuse(address):
    raise FileNotFoundError(address)


with suppress(SystemExit), joined() as group:
    rank = group.rank
    found["sum"] = group.sum_(torch.tensor([1.0, rank])).tolist()
    found["greatest"] = group.greatest(10 * rank)
    found["told"] = group.tell({"from": rank})
    followed = torch.full((2, 3, 4, 4), float(rank + 1)).to(memory_format=torch.channels_last)
    group.follow([followed])
    found["followed"] = followed.unique().tolist()
    # 0, 2 and 4 rows.
    part = torch.full((2 * rank, 2), rank)
    gathered, flags = group.gather(part), group.gather(torch.arange(len(part)) == 1)
    found["gathered"] = None if gathered is None or flags is None else [gathered[:, 0].tolist(), flags.tolist()]
    group.barrier()
    found["raised"] = []
    for failing in ((), (2,), (1, 2)):
        try:
            with group.together():
                if rank in failing:
                    raise ConfigError(f"wrong in {rank}")
        except (ConfigError, PeerError) as error:
            found["raised"].append([type(error).__name__, str(error)])
        else:
            found["raised"].append(None)

    # Sums that come fast after each other, of numbers whose sum depends on its order.
    numbers = torch.empty(30_000)
    add = group.summing(numbers)
    found["in shared memory"] = not isinstance(add, partial)
    found["wrong"] = []
    for first, second, third in torch.randn(200, 3, generator=torch.Generator().manual_seed(0)):
        numbers.fill_((first, second, third)[rank])
        add()
        if not (numbers == (first + second) + third).all():
            found["wrong"].append(numbers.unique().tolist())
    counts = torch.tensor([[rank, 1], [2, 2**40]])
    group.summing(counts)()
    found["counted"] = counts.tolist()

    # One of them cannot share.
    if rank == 2:
        shared_memory.attach = refuse
    counts = torch.tensor([rank])
    group_sum = group.summing(counts)
    group_sum()
    found["refused"] = [isinstance(group_sum, partial), *counts.tolist()]

    pids = torch.zeros(3, dtype=torch.int64)
    pids[rank] = os.getpid()
    group.sum_(pids)
    if rank == 2:
        print(json.dumps(found), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    found["lost"] = [lost(add), lost(lambda: group.barrier(60))]
    if rank == 0:
        # The other leaves the group, and lives on.
        end = time.monotonic() + 60
        while found["in shared memory"] and "process 1 of 3 is gone" not in lost(add):
            assert time.monotonic() < end
        os.kill(int(pids[1]), signal.SIGTERM)
    print(json.dumps(found), flush=True)
    raise SystemExit

if rank == 1:
    signal.alarm(60)
    signal.pause()
