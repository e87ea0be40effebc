"""What each of three processes does in ``test_group``; prints one line of JSON."""

import contextlib
import json

import torch

from gloro_fast.distributed import joined
from gloro_fast.errors import ConfigError, DistributedError, PeerError

found = {}
with joined() as group:
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
    if rank == 2:
        with contextlib.suppress(SystemExit):
            print(json.dumps(found))
        raise SystemExit
    try:
        group.barrier(60)
    except DistributedError as error:
        found["lost"] = str(error)
    print(json.dumps(found))
    raise SystemExit
