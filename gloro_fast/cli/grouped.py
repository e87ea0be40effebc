"""Commands that the processes of a group, as torchrun starts them, run together: the first of them speaks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from gloro_fast.cli.options import usable_device

if TYPE_CHECKING:
    from gloro_fast.distributed import Group

_Command = TypeVar("_Command", bound=Callable[..., None])


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
    from gloro_fast.distributed import joined
    from gloro_fast.progress import silence

    with joined(device) as group:
        if not group.is_main:
            silence()
            warnings.simplefilter("ignore")
        yield group


def shared(command: _Command) -> _Command:
    """Let the processes of a group run a command together that works on the device of its option ``device``."""

    @functools.wraps(command)
    def together(**options: Any) -> None:
        with grouped(usable_device(options["device"])):
            command(**options)

    return together  # type: ignore[return-value]
