"""A 64-bit hash of the bits of each of many tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gloro_fast.native import dispatch, extension
from gloro_fast.ops.capturing import is_capturing
from gloro_fast.ops.registration import register

# Words at a time: enough to keep an accelerator busy, few enough for the working set to stay in a CPU's cache.
_CHUNK = 1 << 16
SHARES = 64
"""Programs a tensor on a GPU: half of an H100's multiprocessors for one that is all of a net, few idle for a bias."""
# Odd 64-bit constants of splitmix64's increment and finalizer, as signed integers.
_STEP, _MULTIPLIER_1, _MULTIPLIER_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    """Hash the bits of each tensor; the same values as :func:`fingerprint_reference`, on every device.

    Runs compiled, in one call, where all tensors are on the CPU; on a GPU in Triton, one launch and a sum, but
    in plain PyTorch where a CUDA graph is being captured.

    Args:
        tensors: any shapes, strides and types, all on one device.

    Returns:
        (n,) int64 on that device (the CPU if there are no tensors), constant to autograd.
    """
    if tensors and all(tensor.is_cpu for tensor in tensors):
        if extension.available():
            constant = [tensor.detach() for tensor in tensors] if torch.is_grad_enabled() else list(tensors)
            hashes: Tensor = torch.ops.gloro_fast.fingerprint.default(constant)
            return hashes
        extension.warn_if_missing()
    if tensors and torch.compiler.is_compiling():
        found: Tensor = _in_a_graph([tensor.detach() for tensor in tensors])
        return found
    return _untraced(tensors)


def _untraced(tensors: Sequence[Tensor]) -> Tensor:
    # Of tensors that a captured graph makes nobody knows the addresses before.
    if _runs_on_gpu(tensors) and not is_capturing(tensors[0].device):
        return fingerprint_shares(tensors).sum(dim=1)
    return fingerprint_reference(tensors)


def _runs_on_gpu(tensors: Sequence[Tensor]) -> bool:
    return bool(tensors) and tensors[0].is_cuda and dispatch.runs("fingerprint")


def fingerprint_shares(tensors: Sequence[Tensor]) -> Tensor:
    """Return each hash in parts that add up to it: one launch on a GPU, for a kernel that adds them up itself.

    Args:
        tensors: one or more, as for :func:`fingerprint`.

    Returns:
        (n, shares) int64, whose sums over dimension 1, wrapping, are the hashes.

    Raises:
        ConfigError: a CUDA graph is being captured, and these tensors were never hashed before.
    """
    if _runs_on_gpu(tensors):
        shares: Tensor = torch.ops.gloro_fast.fingerprint_shares([tensor.detach() for tensor in tensors])
        return shares
    return fingerprint(tensors)[:, None]


def fingerprint_reference(tensors: Sequence[Tensor]) -> Tensor:
    """What :func:`fingerprint` computes, in plain PyTorch.

    The bytes of a tensor in logical order (whatever its strides) are cut into words of 8, the last filled up with
    zeros. Each word and its place go through a bijective mixing; the hash is the sum. So a change of any one
    element changes the hash for sure; several changed together do so but for one chance in 2^64.

    Args:
        tensors: any shapes, strides and types, all on one device.

    Returns:
        (n,) int64 on that device (the CPU if there are no tensors).
    """
    return torch.stack([_hash(tensor.detach()) for tensor in tensors]) if tensors else torch.zeros(0, dtype=torch.int64)


def _hash(tensor: Tensor) -> Tensor:
    """Hash the bytes of ``tensor`` to one int64, with integer arithmetic that wraps."""
    words = _words(tensor)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    place = torch.arange(1, min(len(words), _CHUNK) + 1, device=tensor.device).mul_(_STEP)
    for start in range(0, len(words), _CHUNK):
        chunk = words[start : start + _CHUNK]
        mixed = chunk + place[: len(chunk)] + _wrap(start * _STEP)
        mixed = (mixed ^ _shifted(mixed, 32)) * _MULTIPLIER_1
        mixed = (mixed ^ _shifted(mixed, 29)) * _MULTIPLIER_2
        total += (mixed ^ _shifted(mixed, 32)).sum()
    return total


def _words(tensor: Tensor) -> Tensor:
    """Return the bytes of ``tensor`` as int64."""
    flat = tensor.contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    rest = -flat.numel() * flat.itemsize % 8
    if rest or flat.storage_offset() * flat.itemsize % 8:
        flat = F.pad(flat.view(torch.uint8), (0, rest))
        # Padding by nothing gives the same memory, whose first byte may stand anywhere.
        flat = flat if rest else flat.clone()
    return flat.view(torch.int64)


def _shifted(x: Tensor, places: int) -> Tensor:
    """Shift right as if unsigned: torch's ``>>`` would copy the sign, and two numbers could mix to the same."""
    mask: int = 2 ** (64 - places) - 1
    return (x >> places) & mask


def _wrap(value: int) -> int:
    """Reduce ``value`` to a signed 64-bit integer."""
    return (value + 2**63) % 2**64 - 2**63


# What follows tells torch of the compiled ops, and of the hash as an op: no compiler traces it, as it asks where in
# memory a tensor begins. CUDA graphs of a compiler leave it out, whose memory is not for tables that stay.


def _fake_fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    hashes: Tensor = tensors[0].new_empty([len(tensors)], dtype=torch.int64)
    return hashes


@torch.library.custom_op("gloro_fast::fingerprint_reference", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _in_a_graph(tensors: Sequence[Tensor]) -> Tensor:
    return _untraced(tensors)


_in_a_graph.register_fake(_fake_fingerprint)


def _fake_fingerprint_shares(tensors: Sequence[Tensor]) -> Tensor:
    shares: Tensor = tensors[0].new_empty([len(tensors), SHARES], dtype=torch.int64)
    return shares


if extension.available():
    torch.library.register_fake("gloro_fast::fingerprint", _fake_fingerprint)
register("fingerprint_shares", _fake_fingerprint_shares, "fingerprint", "(Tensor[] tensors) -> Tensor")
