"""An op by which a compiled graph has its net look at itself, each time it runs.

A compiler traces again when an attribute that it read has changed, in parts of a net by themselves where it cannot make
one graph of them. So a look while tracing would not be one at what runs.
"""

from __future__ import annotations

import itertools
from typing import Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from gloro_fast.errors import StaleBoundError


class Watched(Protocol):
    """Something that can tell whether it is what it was."""

    def check_structure(self) -> None:
        """Raise if it is not."""


_WATCHED: WeakValueDictionary[str, Watched] = WeakValueDictionary()
_numbers = itertools.count()


def watch(net: Watched) -> str:
    """Return the key under which a graph of ``net`` finds it for as long as it exists."""
    # No number: compilers take one that differs from net to net for a variable.
    key = f"net {next(_numbers)}"
    _WATCHED[key] = net
    return key


def look(x: Tensor, key: str) -> Tensor:
    """Have the net look at its structure when the graph runs.

    Args:
        x: any tensor, on the device of the result.
        key: from :func:`watch`.

    Returns:
        Scalar bool tensor, true. Something must be made of it, or a compiler leaves the look out.

    Raises:
        StaleBoundError: the net does not exist any more; or whatever the net raises.
    """
    found: Tensor = _look(x, key)
    return found


# A recorded CUDA graph would look once.
@torch.library.custom_op("gloro_fast::look", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _look(x: Tensor, key: str) -> Tensor:
    net = _WATCHED.get(key)
    if net is None:
        raise StaleBoundError(f"the graph was compiled for {key}, which does not exist here; compile the net again")
    net.check_structure()
    return torch.ones((), dtype=torch.bool, device=x.device)


@_look.register_fake
def _fake(x: Tensor, key: str) -> Tensor:
    return x.new_empty((), dtype=torch.bool)
