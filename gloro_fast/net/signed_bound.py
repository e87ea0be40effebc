"""A Lipschitz bound together with the weights it holds for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast import ops
from gloro_fast.bounds import NetworkBound, bound_network, general_difference_bounds
from gloro_fast.graph.merging import Merged
from gloro_fast.graph.plan import Plan, as_evaluated, check_integrity
from gloro_fast.net.net_fingerprint import (
    Fingerprint,
    constants_are_signed,
    fingerprint,
    registered,
    structural_difference,
    watched,
)
from gloro_fast.net.snapshot import Snapshot
from gloro_fast.ops.strict import WEIGHTS
from gloro_fast.progress import Progress
from gloro_fast.rules.registry import KINDS


@dataclass(frozen=True)
class SignedBound:
    """What a certificate rests on.

    Attributes:
        network: the Lipschitz constant K of everything before the head, by a named method.
        differences: (m, m) float64 upper bounds on D_ij, so that K_ij = K D_ij: ||w_i - w_j||_2 of a dense head.
        fingerprint: of the module whose weights these are.
        hashes: (n,) int64, the hashes in it, for a graph to compare with.
        snapshot: a quick look at the same module, where that shows every change.
    """

    network: NetworkBound
    differences: Tensor
    fingerprint: Fingerprint
    hashes: Tensor
    snapshot: Snapshot | None = None

    def to(self, device: torch.device) -> SignedBound:
        """Return the same bound with its tensors on ``device``: a move changes no weight."""
        return dataclasses.replace(self, differences=self.differences.to(device), hashes=self.hashes.to(device))


def sign(module: nn.Module, plan: Plan, method: str) -> SignedBound:
    """Bound the present weights of ``module`` as it is in evaluation, and take their fingerprint.

    Args:
        module: the module that ``plan`` was made from.
        plan: its layers.
        method: a name in ``gloro_fast.bounds.METHODS``.

    Raises:
        ArchitectureError: an activation jumps in the type that it is computed in.
    """
    with as_evaluated(module, plan.device):
        parts = [(part.name, part.certified_rule() if isinstance(part, Merged) else part.rule()) for part in plan.parts]
        with Progress("bounding the net") as progress:
            network = bound_network(
                parts,
                method,
                plan.composition.bound,
                lambda done, total, name: progress(done, total, f"{done} of {total} layers, the last one {name}"),
            )
        if plan.head is not None:
            differences = plan.head.difference_bounds()
            kind = max(network.kind, plan.head.kind(), key=KINDS.index)
            network = dataclasses.replace(network, kind=kind)
        else:
            differences = general_difference_bounds(plan.num_classes, plan.device)
        signature = fingerprint(module, plan.rules(), plan.unregistered())
        hashes = torch.tensor([value for *_, value in signature.tensors], dtype=torch.int64, device=plan.device)
        return SignedBound(network, differences, signature, hashes, _snapshot(module, plan))


def look_again(signed: SignedBound, module: nn.Module, plan: Plan) -> SignedBound:
    """Return the same bound with a new snapshot, of a module whose fingerprint is the signed one.

    Moved to another device, or loaded anew, it may consist of other objects.
    """
    with as_evaluated(module, plan.device):
        return dataclasses.replace(signed, snapshot=_snapshot(module, plan))


def present_fingerprint(module: nn.Module, plan: Plan) -> Fingerprint:
    """Take the fingerprint of ``module`` as it is now, to compare with the one that was signed.

    Raises:
        UnknownLayerError, ArchitectureError: a layer has become unknown, or something may change its values.
    """
    check_integrity(module)
    with as_evaluated(module, plan.device):
        return fingerprint(module, plan.rules(), plan.unregistered())


def exported_difference(module: nn.Module, plan: Plan, signed: SignedBound) -> str:
    """Name the first thing but the bits of tensors in which ``module`` differs from what was signed; empty if none.

    Raises:
        UnknownLayerError, ArchitectureError: as for :func:`present_fingerprint`.
    """
    if not plan.fits(module):
        return "something that its forward may read has changed since"
    check_integrity(module)
    with as_evaluated(module, plan.device):
        return structural_difference(signed.fingerprint, module, plan.rules())


def weights_are_signed(module: nn.Module, signed: SignedBound) -> Tensor:
    """Compare parameters and buffers with the signed ones inside a graph, where Python cannot look at them.

    Returns:
        scalar bool tensor. Nothing else is compared.
    """
    named = registered(module)
    return (ops.fingerprint([tensor for _, tensor in named]) == signed.hashes[: len(named)]).all()


def exported_weights_are_signed(module: nn.Module, plan: Plan, signed: SignedBound) -> Tensor:
    """Compare them together with all that layers make of them: an exported graph is on its own.

    Returns:
        scalar bool tensor. What is no tensor is not compared.
    """
    with WEIGHTS:
        rules = plan.rules()
    named = watched(module, rules, plan.unregistered())
    unchanged = (ops.fingerprint([tensor for _, tensor in named]) == signed.hashes).all()
    for constant in constants_are_signed(signed.fingerprint, rules):
        unchanged = unchanged & constant
    return unchanged


def _snapshot(module: nn.Module, plan: Plan) -> Snapshot | None:
    # Tensors that the graph reads and that no module holds are not seen by it.
    called = [node.operation for node in plan.nodes if isinstance(node.operation, nn.Module)]
    return None if plan.unregistered() else Snapshot.of(module, called)
