"""Relaxed top-k and affinity robustness (Leino and Fredrikson 2021): radii that certify, and the bottom to train with.

"Relaxing Local Robustness", NeurIPS 2021. With F^k(x) the set of the k largest logits, a net is
relaxed top-K robust at x with radius epsilon if for some k <= K F^k is the same set everywhere in the ball; affinity
robust, if F^k(x) is also part of one of the affinity sets. Within F^k the order may change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.ops.certify import margin_constants, pair_radii
from gloro_fast.ops.scalar import constant

Relaxation = int | Collection[Collection[int]]
"""K of relaxed top-K robustness, or the affinity sets of class indices. A class by itself is always a set."""


def read_relaxation(relaxation: Relaxation) -> tuple[int, Tensor | None]:
    """Return the largest k that a relaxation allows, and its sets: (s, classes up to the last named) bool, or None.

    Raises:
        ConfigError: it is no whole number >= 1, nor sets of class indices.
    """
    if isinstance(relaxation, int) and not isinstance(relaxation, bool):
        if relaxation < 1:
            raise ConfigError(f"relaxation is {relaxation}; top-k robustness needs k of at least 1")
        return relaxation, None
    try:
        sets = [sorted(set(members)) for members in relaxation]  # type: ignore[union-attr]
        usable = bool(sets) and all(members and members[0] >= 0 for members in sets)
        found = torch.zeros(len(sets), 1 + max(members[-1] for members in sets), dtype=torch.bool) if usable else None
        if found is not None:
            for row, members in zip(found, sets, strict=True):
                row[members] = True
            return max(map(len, sets)), found
    except (TypeError, ValueError, IndexError):
        pass
    raise ConfigError(
        f"relaxation is {relaxation!r:.60}; give k, or sets of class indices such as [{{3, 5}}, {{1, 9}}]"
    )


def check_sets(most: int, members: Tensor | None, classes: int) -> None:
    """Refuse what :func:`read_relaxation` read if it does not fit the number of classes.

    Raises:
        ConfigError: ``most`` is not below that, or a set has a class beyond.
    """
    if most >= classes:
        raise ConfigError(f"sets of {most} of {classes} classes never change; relax to at most {classes - 1} of them")
    if members is not None and members.shape[1] > classes:
        raise ConfigError(f"an affinity set has class {members.shape[1] - 1}, but there are {classes} classes")


def allowed_sets(classes: Tensor, members: Tensor | None) -> Tensor:
    """Return for each k whether the set of the first k classes (B, K) is allowed, (B, K) bool; a single class is.

    Args:
        classes: (B, K) int64, the likeliest in their order.
        members: (s, at most m) bool, affinity sets; None to allow every set.
    """
    allowed = torch.ones_like(classes, dtype=torch.bool)
    if members is not None:
        members = members.to(classes.device)
        known = classes.clamp_max(members.shape[1] - 1)
        within = members[:, known] & (classes == known)
        allowed = within.cumprod(2).bool().any(0)
        allowed[:, 0] = True
    return allowed


def ranked_classes(logits: Tensor) -> Tensor:
    """Return all classes from the likeliest on, (B, m) int64: of equal logits the first index first, as argmax does."""
    return logits.argsort(dim=1, descending=True, stable=True)


def radii_of_sets(classes: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return for each k the least pair radius of any of the first k classes over any other, (B, K) float64.

    Args:
        classes: (B, K) int64.
        pairs: for each of the K ranks in turn what :func:`gloro_fast.ops.certify.pair_radii` gives of its class. Where
            one is not usable neither is any set with its class: 0.
    """
    found, least, usable = [], classes.new_full((), torch.inf, dtype=torch.float64), torch.ones_like(classes[:, 0] > 0)
    for k, (radii, known) in enumerate(pairs, start=1):
        least, usable = torch.minimum(least, radii), usable & known
        found.append(torch.where(usable, least.scatter(1, classes[:, :k], torch.inf).amin(dim=1), 0.0))
    return torch.stack(found, dim=1)


@torch.no_grad()
def relaxed_radii(logits: Tensor, differences: Tensor, lipschitz: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the likeliest classes in their order, and the radius within which the first k of them stay the first k.

    For every j among the first k and every i behind, f_j > f_i holds in the open ball of the radius: it is at most the
    real min over them of (f_j - f_i) / (K ||w_j - w_i||), with every rounding downward. A tie between j and i, and a
    logit or bound that is not finite, give 0. For k = 1 the bits are those of
    :func:`gloro_fast.ops.certify.certified_radius`.

    Args:
        logits: (B, m) of any floating dtype.
        differences: (m, m) float64, upper bounds on ||w_i - w_j||_2.
        lipschitz: K >= 0.
        most: the largest k, < m.

    Returns:
        classes: (B, most) int64.
        radii: (B, most) float64, that of k at index k - 1; +inf where nothing limits it.

    Raises:
        ConfigError: ``most`` is not below m.
    """
    check_sets(most, None, logits.shape[1])
    values, constants = logits.double(), margin_constants(differences, lipschitz)
    classes = ranked_classes(values)[:, :most]
    return classes, radii_of_sets(classes, (pair_radii(values, leader, constants) for leader in classes.unbind(1)))


def relaxed_margin(
    logits: Tensor,
    differences: Tensor,
    lipschitz: Tensor,
    epsilon: float | Tensor,
    most: int,
    members: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (bottom, prediction, certified) of a batch, in plain PyTorch: the relaxed form of ``margin``.

    bottom = max f - max over allowed k <= ``most`` of min over j in F^k, i not in F^k of
    (f_j - f_i - epsilon K D_ji), which is below max f exactly where some set is certified at epsilon. For ``most`` = 1
    it is the ordinary bottom. Rounded to nearest: certificates are signed by :func:`relaxed_radii`.

    Args:
        logits: (B, m) of a floating dtype.
        differences: (m, m), D_ij.
        lipschitz: scalar tensor K.
        epsilon: l2 radius, >= 0; a number or a 0-dim tensor, a constant to autograd.
        most: the largest k, < m.
        members: (s, at most m) bool, affinity sets; None to allow every set.

    Returns:
        bottom: (B,) of the promoted dtype, at least float32, with gradients to f_i, ``differences`` and ``lipschitz``
            as the ordinary bottom has them; max f - f_j is a constant to autograd.
        prediction: (B,) int64, the first index of the largest logit.
        certified: (B,) bool.

    Raises:
        ConfigError: as :func:`check_sets`.
    """
    check_sets(most, members, logits.shape[1])
    dtype = torch.promote_types(torch.promote_types(logits.dtype, differences.dtype), torch.float32)
    logits, differences, lipschitz = logits.to(dtype), differences.to(dtype), lipschitz.to(dtype)
    epsilon, rows = constant(epsilon), torch.arange(len(logits), device=logits.device)
    with torch.no_grad():
        order = ranked_classes(logits)
        ranked, first = logits.gather(1, order), order[:, :most]
        slope = (lipschitz * differences)[first].gather(2, order[:, None].expand(-1, most, -1))
        lead = ranked[:, None, :] + epsilon * slope - ranked[:, :most, None]
        # The most of ranks >= k behind, then of ranks < k before, and where they are.
        largest, behind = (found.flip(2) for found in lead.flip(2).cummax(2))
        largest, before = largest.cummax(1)
        worst = torch.where(allowed_sets(first, members), largest.diagonal(1, 1, 2), torch.inf)
        size = worst.argmin(dim=1)
        j = before[rows, size, size + 1]
        i = logits.shape[1] - 1 - behind[rows, j, size + 1]
        prediction, j, i = order[:, 0], order[rows, j], order[rows, i]
        # A constant, as it has no part in the ordinary bottom. Of 18 nets of 3 or 5 classes, two of them alike, trained
        # for 300 steps, all certified 99 % of what they can; with gradients through both logits 17, with one through
        # f_j alone 1.
        ahead = ranked[:, 0] - logits[rows, j]
    bottom = ahead + (logits[rows, i] + epsilon * (lipschitz * differences[j, i]))
    return bottom, prediction, (bottom < ranked[:, 0]) & logits.isfinite().all(dim=1)
