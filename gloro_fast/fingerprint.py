"""A fingerprint of a network: the bits of all its parameters and buffers, and its structure.

A frozen Lipschitz bound holds for one set of weights. Version counters do not show every change of them (fused
optimizers, ``.data``, NumPy views and ``vector_to_parameters`` leave them alone), so the bits themselves are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Large enough to keep an accelerator busy, small enough that the working set stays in a CPU's cache.
_CHUNK = 1 << 16
_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd 64-bit constants of splitmix64's increment and finalizer, as signed integers.
_STEP, _MULTIPLIER_1, _MULTIPLIER_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


@dataclass(frozen=True)
class Fingerprint:
    """What two networks share exactly when they have the same structure and the same weights, bit by bit.

    Attributes:
        structure: name, type and settings of every module.
        tensors: name, shape, dtype and 64-bit hash of every parameter and buffer.
    """

    structure: tuple[tuple[str, str, str], ...]
    tensors: tuple[tuple[str, tuple[int, ...], torch.dtype, int], ...]

    def difference(self, other: Fingerprint) -> str:
        """Name the first thing in which ``other`` differs."""
        for mine, its in zip(self.structure, other.structure, strict=False):
            if mine != its:
                return f"module {its[0] or '(top)'} is now {its[1]}({its[2]})"
        for mine_tensor, its_tensor in zip(self.tensors, other.tensors, strict=False):
            if mine_tensor != its_tensor:
                return f"{its_tensor[0]} has changed"
        return "modules, parameters or buffers were added or removed"


def fingerprint(module: nn.Module) -> Fingerprint:
    """Take the fingerprint of ``module`` on its device, with one wait for that device.

    Moving the module to another device, or to another memory format, changes nothing. Any single changed element
    changes the hash of its tensor; several changed together do so but for one chance in 2^64.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    hashes = [_hash(tensor.detach()) for _, tensor in named]
    values: list[int] = torch.stack([h.to(hashes[0].device) for h in hashes]).tolist() if hashes else []
    return Fingerprint(
        structure(module),
        tuple(
            (name, tuple(tensor.shape), tensor.dtype, value)
            for (name, tensor), value in zip(named, values, strict=True)
        ),
    )


def structure(module: nn.Module) -> tuple[tuple[str, str, str], ...]:
    """List name, type and settings of every module; the device is no part of it."""
    return tuple(
        (name, f"{type(child).__module__}.{type(child).__qualname__}", child.extra_repr())
        for name, child in module.named_modules()
    )


def _hash(tensor: Tensor) -> Tensor:
    """Hash the bits of ``tensor`` in logical order to one int64, with integer arithmetic that wraps."""
    bits = tensor.contiguous().reshape(-1)
    if bits.is_complex():
        bits = torch.view_as_real(bits).reshape(-1)
    bits = bits.view(_INTEGER_OF_SIZE[bits.itemsize])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    position = torch.arange(1, min(bits.numel(), _CHUNK) + 1, device=tensor.device).mul_(_STEP)
    for start in range(0, bits.numel(), _CHUNK):
        chunk = bits[start : start + _CHUNK].to(torch.int64)
        # Each element and its place go through a bijective mixing; a sum has one order-free value.
        mixed = chunk + position[: len(chunk)] + _wrap(start * _STEP)
        mixed = (mixed ^ (mixed >> 32)) * _MULTIPLIER_1
        mixed = (mixed ^ (mixed >> 29)) * _MULTIPLIER_2
        total += (mixed ^ (mixed >> 32)).sum()
    return total


def _wrap(value: int) -> int:
    """Reduce ``value`` to a signed 64-bit integer."""
    return (value + 2**63) % 2**64 - 2**63
