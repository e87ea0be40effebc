"""A command that the processes of a group, as torchrun starts them, run together: the first of them speaks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from gloro_fast.distributed import Group, joined
from gloro_fast.progress import silence


@contextmanager
def grouped(device: str) -> Iterator[Group]:
    """Join the processes that torchrun has started for the command, and keep all but the first from speaking.

    Args:
        device: where the work is done.

    Yields:
        The group; of one process where there is no torchrun.

    Raises:
        DistributedError: the group cannot be joined.
    """
    with joined(device) as group:
        if not group.is_main:
            silence()
            warnings.simplefilter("ignore")
        yield group
