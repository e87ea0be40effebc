"""A quick look at a network: whether it is what it was, without applying a rule or printing a setting.

A fingerprint asks every module for its rule and settings; where nothing has changed, as at nearly every certificate,
that took 1.2 ms of the 12 ms that 500 images of 2C2F take. Here objects are compared by their identity instead, and the
bits of the weights are hashed as ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import is_

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gloro_fast import ops
from gloro_fast.graph.reads import Reads
from gloro_fast.rules.integrity import calls_are_torchs
from gloro_fast.rules.registry import Rule, known_type, registered_rule


@dataclass(frozen=True)
class Snapshot:
    """What a network consisted of.

    Attributes:
        modules: the network first, then everything in it; empty in a copy.
        reads: everything that can be reached from it.
        rules: the types of its modules, each with the rule registered for it.
        places: the parameters and buffers of all modules, one by one.
        tensors: each of them once, with its shape, dtype and hash.
        hashes: (n,) int64, the hashes on the device of the tensors, for it to compare with.
    """

    modules: tuple[nn.Module, ...]
    reads: Reads
    rules: tuple[tuple[type[nn.Module], Rule | None], ...]
    places: tuple[Tensor, ...]
    tensors: tuple[tuple[Tensor, torch.Size, torch.dtype, int], ...]
    hashes: Tensor

    @classmethod
    def of(cls, module: nn.Module, others: Sequence[nn.Module] = ()) -> Snapshot | None:
        """Look at ``module``; None where a quick look would not show every change.

        That is where a rule of a user's own, which may read anything, is registered for one of its layers; where it has
        a parametrization, tensors that are neither parameters nor buffers, or of a subclass, or on several devices.

        Args:
            module: the network.
            others: layers that its graph calls and that are not in it.
        """
        found = list({id(child): child for root in (module, *others) for child in root.modules()}.values())
        rules = {kind: registered_rule(kind) for kind in map(known_type, found)}
        if any(rule is not None and not _is_own(rule) for rule in rules.values()):
            return None
        if any(map(parametrize.is_parametrized, found)):
            return None
        places = tuple(tensor for child in found for tensor in _tensors(child))
        tensors = list({id(tensor): tensor for tensor in places}.values())
        if len({tensor.device for tensor in tensors}) > 1 or any(
            type(t) not in (Tensor, nn.Parameter) for t in tensors
        ):
            return None
        reads = Reads.of(module, *others)
        if reads.tensors:
            return None
        hashes = ops.fingerprint(tensors)
        hashed = zip(tensors, hashes.tolist(), strict=True)
        return cls(
            tuple(found),
            reads,
            tuple(rules.items()),
            places,
            tuple((tensor, tensor.shape, tensor.dtype, value) for tensor, value in hashed),
            hashes,
        )

    def __reduce__(self) -> tuple[type[Snapshot], tuple[object, ...]]:
        """Copy and pickle as a snapshot of nothing: a copied network consists of other objects."""
        return Snapshot, ((), Reads(()), (), (), (), torch.zeros(0, dtype=torch.int64))

    def still_holds(self, module: nn.Module) -> bool:
        """Return whether ``module`` is the network looked at, every bit of it."""
        return self.structure_holds(module) and (
            _hash([tensor for tensor, *_ in self.tensors]) == [value for *_, value in self.tensors]
        )

    def shares(self) -> Tensor | None:
        """Return shares of the hashes that its tensors have now, as the device finds them; None if there are none."""
        return ops.fingerprint_shares([tensor for tensor, *_ in self.tensors]) if self.tensors else None

    def structure_holds(self, module: nn.Module) -> bool:
        """Return whether it is, but for the bits of its tensors, which are not read."""
        if not self.modules or module is not self.modules[0] or not calls_are_torchs():
            return False
        untouched = self.reads.are_untouched()
        if not (self.reads.hold_elsewhere() if untouched else self.reads.hold()):
            return False
        if not all(registered_rule(kind) is rule for kind, rule in self.rules):
            return False
        if not untouched:
            places = [tensor for child in self.modules for tensor in _tensors(child)]
            if len(places) != len(self.places) or not all(map(is_, places, self.places)):
                return False
        return all(tensor.shape == shape and tensor.dtype == dtype for tensor, shape, dtype, _ in self.tensors)


def _is_own(rule: Rule) -> bool:
    """Return whether a rule is one of this package's, all of which read nothing but the attributes of the module.

    Its globals tell where it was defined, whatever name a decorator gave it.
    """
    name: str = getattr(rule, "__globals__", {}).get("__name__", "")
    return name.startswith("gloro_fast.")


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            yield tensor


def _hash(tensors: Sequence[Tensor]) -> list[int]:
    values: list[int] = ops.fingerprint(list(tensors)).tolist() if tensors else []
    return values
