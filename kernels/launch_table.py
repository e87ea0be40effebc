"""How much work a program gets and how many warps do it, by table: no autotuning, so no run differs from the last.

The table was computed, not measured. A kernel that only moves data reaches a card's bandwidth once latency times
bandwidth is in flight (Little's law); each warp of these kernels has all loads of its tile in flight at once:

    architecture   card        GB/s   SMs   bytes in flight an SM at 0.7 us
    sm_80          A100        1555   108   10 kB
    sm_86          RTX 3080     760    68    8 kB
    sm_89          RTX 4090    1008   128    6 kB
    sm_90          H100        3350   132   18 kB
    sm_100         B200        8000   148   38 kB
    sm_120         RTX 5090    1792   170    7 kB

A program of four warps has 32 kB in flight, and its registers leave room for two at least on an SM: enough on all
of them; sm_90 and sm_100 get eight warps at the same bytes a thread. Eight programs an SM even out the last wave.
Unknown architectures (AMD's among them) take the entry of sm_80.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import triton
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """What a launch is cut into on one architecture.

    Attributes:
        tile_bytes: bytes of x that a program of minmax takes at once.
        warps: of a program with a whole tile; smaller tiles get fewer, at the same bytes a thread.
        programs: what fills the card; tiles are halved, down to one warp, while there are fewer.
    """

    tile_bytes: int
    warps: int
    programs: int


_TABLE = {
    80: Entry(tile_bytes=32768, warps=4, programs=864),
    86: Entry(tile_bytes=32768, warps=4, programs=544),
    89: Entry(tile_bytes=32768, warps=4, programs=1024),
    90: Entry(tile_bytes=65536, warps=8, programs=1056),
    100: Entry(tile_bytes=65536, warps=8, programs=1184),
    120: Entry(tile_bytes=32768, warps=4, programs=1360),
}


def entry_of_current_device() -> Entry:
    """The table's entry for the device that Triton would launch on now."""
    if triton.knobs.runtime.interpret:
        return _TABLE[80]
    return _TABLE.get(triton.runtime.driver.active.get_current_target().arch, _TABLE[80])


def on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the device of ``tensor`` the current one: Triton launches there. Nothing on the CPU (interpreter)."""
    return contextlib.nullcontext() if tensor.device.type == "cpu" else torch.cuda.device(tensor.device)
