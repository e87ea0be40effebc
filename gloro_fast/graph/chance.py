"""Refusing random numbers that a ``forward`` draws by itself: in a graph they would be the same ones for ever."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gloro_fast.errors import ArchitectureError


class NoChance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse every operation that draws, before it draws: this thread's alone, whose generator others may share.

    Raises:
        ArchitectureError: there is one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._drew = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func`` unless it draws."""
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            self._drew = True
            self.check()
        return func(*args, **(kwargs or {}))

    def check(self) -> None:
        """Refuse it again, should the ``forward`` have caught the error."""
        if self._drew:
            raise ArchitectureError("the module draws random numbers in its forward; use nn.Dropout or none at all")
