"""The power iterates of a GloRo net: float32 buffers, kept between training steps and in the ``state_dict``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.ops.normalize import normalize
from gloro_fast.rules.registry import LinearMap


class Iterates(nn.Module):
    """One unit vector of the shape of its input for each linear layer, in order: buffers "0", "1", ...

    They are float32 (float64 for float64 weights), also where the weights are of a half type: rounded to that,
    the iteration would stall. ``load_state_dict`` takes those that fit, and leaves the others as they are.

    Args:
        maps: the linear layers.
    """

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        super().__init__()
        self.fit(maps)

    def vectors(self) -> list[Tensor]:
        """List the iterates in the order of the layers."""
        # get_buffer takes 7 microseconds for each, twice a training step.
        return [buffer for buffer in self._buffers.values() if buffer is not None]

    def fit(self, maps: Sequence[LinearMap]) -> None:
        """Start iterates anew for layers whose input shape differs from theirs; keep the others."""
        old = dict(self._buffers)
        self._buffers.clear()
        for index, linear in enumerate(maps):
            kept = old.get(str(index))
            if kept is None or kept.shape != linear.geometry.input_shape:
                dtype = torch.float64 if linear.weight.dtype == torch.float64 else torch.float32
                kept = _start(index, linear.geometry.input_shape, linear.weight.device, dtype)
            self.register_buffer(str(index), kept)

    @torch.no_grad()
    def move_to(self, vectors: Sequence[Tensor]) -> None:
        """Copy new values into the iterates, all at once: on a GPU in one launch."""
        if self._buffers:
            torch._foreach_copy_(self.vectors(), list(vectors))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Where an iteration starts is no part of what the net computes: of a checkpoint without iterates, or of images
        # of another size, the weights alone are taken.
        fitting = {
            prefix + name: state_dict[prefix + name]
            for name, buffer in self._buffers.items()
            if buffer is not None and getattr(state_dict.get(prefix + name), "shape", None) == buffer.shape
        }
        super()._load_from_state_dict(fitting, prefix, local_metadata, False, [], [], error_msgs)
        unexpected_keys += [key for key in state_dict if strict and not key.removeprefix(prefix).isdigit()]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Iterates:
        # fn may move (.to(device)) and convert (.half()); only float64 is taken over from a conversion.
        for name, buffer in self._buffers.items():
            assert buffer is not None
            applied = fn(buffer)
            dtype = torch.float64 if applied.dtype == torch.float64 else torch.float32
            if buffer.is_meta:  # Nothing to take along.
                self._buffers[name] = _start(int(name), buffer.shape, applied.device, dtype)
            else:
                self._buffers[name] = buffer.to(applied.device, dtype)
        return self


def _start(index: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Draw a starting vector from a generator of its own, so that the global one is left alone."""
    generator = torch.Generator().manual_seed(index)
    # A tensor made in inference mode could never be written to in training.
    with torch.inference_mode(False), torch.no_grad():
        vector = normalize(torch.randn(shape, generator=generator, device="cpu"), otherwise=None)
        return vector.to(device, dtype)
