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

A program of minmax with four warps has 32 kB in flight, and its registers leave room for two at least on an SM;
sm_90 and sm_100 get eight warps at the same bytes a thread, one program an SM at least: 64 kB everywhere. Eight
programs an SM even out the last wave. Unknown architectures (AMD's among them) take the entry of sm_80.

Rows of logits (margin and its losses) are cut the same way everywhere, since nothing that could part the architectures
does. A batch is one wave: 512 rows of 1000 classes make 512 programs, and 6 to 9 of them have room on an SM. Where
there are many waves, what is in flight hardly depends on the cut, since registers are what bounds it and grow with the
tile; in the registers that were counted for sm_86 and sm_100 (float32, TRADES-CE, its margin alone):

    elements a warp   registers           kB in flight an SM        rows of 10 a program   registers   kB
    256               63-77,  64-67       23-31, 27-31              32                     80-90        6-8
    512               128-132, 100        27-31, 35                 64                     128-131      8-10
    1024              240-254, 184-192    31, 39-43                 128                    216-219     10

512 and 64 are next to the most, with half the registers to spare that a compiler may want. That is above the latency
times bandwidth of all cards but the H100, for 10 classes, and the B200: on these a million rows would take up to five
times as long as their bandwidth allows, some tens of microseconds.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import triton
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """How rows of logits are cut.

    Attributes:
        elements: of a tile, a warp; 16 a thread at 512.
        short_classes: most classes of rows so short that a program loads many as one run of memory, and all of D.
        short_rows: of a program then.
        short_warps: several, so that Triton deals out through shared memory; within one it takes 13,000 instructions.
    """

    elements: int = 512
    short_classes: int = 12  # D is then at most 7 % of what a program moves
    short_rows: int = 64
    short_warps: int = 4


@dataclass(frozen=True)
class Entry:
    """What a launch is cut into on one architecture.

    Attributes:
        tile_bytes: bytes of x that a program of minmax takes at once.
        warps: of a program with a whole tile; smaller tiles get fewer, at the same bytes a thread.
        programs: what fills the card; tiles are halved, down to one warp, while there are fewer.
        rows: of logits.
    """

    tile_bytes: int
    warps: int
    programs: int
    rows: Rows = Rows()


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
