"""All random numbers of a run: generators of its own, and torch's global ones while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Randomness:
    """The generators of a run, all from one seed.

    Attributes:
        order: CPU generator of the data order.
        augmentation: CPU generator of the augmentation.

    Args:
        seed: what they start from.
        device: where training runs; if that is a GPU, its global generator belongs to the run as well.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        root = torch.Generator().manual_seed(seed)
        seeds: list[int] = torch.randint(2**62, (3,), generator=root).tolist()
        self.order = torch.Generator().manual_seed(seeds[0])
        self.augmentation = torch.Generator().manual_seed(seeds[1])
        self._cuda = [device] if device.type == "cuda" else []
        with self._forked():
            torch.manual_seed(seeds[2])
            self._global = self._read_global()

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Make torch's global generators the run's own for a while, and put the caller's back afterwards."""
        with self._forked():
            self._set_global(self._global)
            try:
                yield
            finally:
                self._global = self._read_global()

    def state(self) -> dict[str, Tensor]:
        """Return the state of every generator, uint8, to be called inside ``as_global``."""
        own = {"order": self.order.get_state(), "augmentation": self.augmentation.get_state()}
        return {**own, **self._read_global()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave, to be called outside ``as_global``.

        Raises:
            KeyError: a generator is missing.
            RuntimeError: it is no state of a generator.
        """
        self.order.set_state(state["order"])
        self.augmentation.set_state(state["augmentation"])
        # A run that goes on with a GPU it did not begin with has no state for it, and keeps the fresh one.
        self._global = {name: state.get(name, fresh) for name, fresh in self._global.items()}
        torch.Generator().set_state(self._global["cpu"])

    @contextmanager
    def _forked(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self._cuda):
            yield

    def _read_global(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        for device in self._cuda:
            states["cuda"] = torch.cuda.get_rng_state(device)
        return states

    def _set_global(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        for device in self._cuda:
            torch.cuda.set_rng_state(states["cuda"], device)
