"""The squared Fourier symbol of a convolution: one small Hermitian matrix a frequency."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.rounding import UNIT_ROUNDOFF, add_up, gamma, norm_up, product_up


@dataclass(frozen=True)
class Frequencies:
    """Frequencies pi a / side along one axis.

    Attributes:
        side: N.
        multiples: the integers a.
    """

    side: int
    multiples: range

    @classmethod
    def of_torus(cls, side: int, twist: int, half: bool) -> Frequencies:
        """Return those of a torus of ``side``: (2 pi j + pi twist) / side, those >= 0 and <= pi alone if ``half``."""
        return cls(side, range(twist, side + 1 if half else 2 * side, 2))


@dataclass(frozen=True)
class SquaredSymbol:
    """H(omega) = K'(omega) K'(omega)^H, with K'(omega) = sum over taps q of K'_q exp(i omega . q), of G groups.

    With A_d = sum_q K'_(q+d) K'_q^T, the autocorrelation, whose A_(-d) is A_d^T,

        H(omega) = A_0 + sum over d > 0 of (A_d + A_d^T) cos(omega . d) + i (A_d - A_d^T) sin(omega . d).

    The products of matrices are done once, whatever the number of frequencies.

    Attributes:
        offsets: d >= 0 in lexicographic order, the first of them 0.
        even, odd: (offsets, G, n, n) float64, what the cosines and the sines multiply.
        error: what to add to the largest eigenvalue of a computed H for that of the real one.
    """

    offsets: list[tuple[int, ...]]
    even: Tensor
    odd: Tensor
    error: float

    @classmethod
    def of(cls, kernel: Tensor, positions: list[list[int]], strides: list[int]) -> SquaredSymbol:
        """Square the symbol of a convolution, or that of its transpose where those matrices are smaller.

        The error: let Z = sum_q |K'_q| have c columns, T be the number of taps, m that of offsets, and phases be known
        to delta. An entry of A_d is a sum of at most T c products, so that real and imaginary part of an entry of H are
        each within (delta + gamma_(T c + m + 1) (1 + delta)) (Z Z^T) of the real ones. As a matrix H is within
        2 (delta + gamma_(T c + m + 2)) ||Z||_F^2, twice being more than the root of 2.

        Args:
            kernel: (G, rows, columns, *taps) float64.
            positions: where each tap lies, >= 0, for every axis.
            strides: s for every axis.
        """
        taps = _by_phase(kernel, positions, strides)
        if taps.shape[-1] < taps.shape[-2]:
            taps = taps.mT
        spatial = taps.ndim - 3
        extents = taps.shape[:spatial]
        offsets = [
            d for d in itertools.product(*(range(1 - extent, extent) for extent in extents)) if d >= (0,) * spatial
        ]
        products = [_correlation(taps, d) for d in offsets]
        even = torch.stack(
            [product + product.mT if any(d) else product for d, product in zip(offsets, products, strict=True)]
        )
        odd = torch.stack([product - product.mT for product in products])
        count, terms = math.prod(extents), math.prod(extents) * taps.shape[-1]
        sums = taps.flatten(0, spatial - 1).abs().sum(dim=0)
        largest = float(norm_up(sums, 2).max()) * (1 + gamma(count + 8))
        factor = 2 * add_up(_phase_error(spatial), gamma(terms + len(offsets) + 2))
        return cls(offsets, even, odd, product_up([largest, largest, factor]))

    def at(self, frequencies: list[Frequencies]) -> Tensor:
        """Evaluate by explicit sums at the grid of the frequencies of every axis.

        Returns:
            (frequencies * G, n, n) complex128; of a single tap float64.
        """
        if len(self.offsets) == 1:
            return self.even[0]
        cosine, sine = _phases(frequencies, self.offsets, self.even.device)
        shape = (-1, *self.even.shape[-2:])
        return torch.complex(cosine @ self.even.flatten(1), sine @ self.odd.flatten(1)).reshape(shape)


def _by_phase(kernel: Tensor, positions: list[list[int]], strides: list[int]) -> Tensor:
    """Gather the taps by phase ("polyphase"): a strided convolution is one of stride 1 on the input's cells.

    Tap u at position t_u = s q + rho (0 <= rho < s) acts on component rho of the cell that is q further, a cell
    being s neighbouring inputs along every axis. That only renames the inputs.

    Returns:
        (q_1 ... q_d, G, rows, columns), one matrix a tap.
    """
    groups, rows, columns, *sizes = kernel.shape
    extents = [max(where) // step + 1 for where, step in zip(positions, strides, strict=True)]
    cells = kernel.new_zeros(*extents, groups, rows, columns, *strides)
    matrices = (slice(None),) * 3
    for tap in itertools.product(*(range(size) for size in sizes)):
        place = [where[index] for where, index in zip(positions, tap, strict=True)]
        quotient = tuple(at // step for at, step in zip(place, strides, strict=True))
        phase = tuple(at % step for at, step in zip(place, strides, strict=True))
        to: tuple[slice | int, ...] = (*quotient, *matrices, *phase)
        source: tuple[slice | int, ...] = (*matrices, *tap)
        cells[to] = kernel[source]
    return cells.reshape(*extents, groups, rows, columns * math.prod(strides))


def _correlation(taps: Tensor, offset: tuple[int, ...]) -> Tensor:
    """Return A_d for one d: (G, n, n)."""
    ahead = taps[tuple(slice(max(d, 0), extent + min(d, 0)) for d, extent in zip(offset, taps.shape, strict=False))]
    behind = taps[tuple(slice(max(-d, 0), extent - max(d, 0)) for d, extent in zip(offset, taps.shape, strict=False))]
    left, right = (part.flatten(0, len(offset) - 1).permute(1, 2, 0, 3).flatten(2) for part in (ahead, behind))
    return left @ right.mT


def _phase_error(spatial: int) -> float:
    """Return more than the error of a product of ``spatial`` phases.

    A cosine or sine is of an angle of at most pi / 4, known to 3 u relatively, so within 2.5 u, plus the last place of
    the library's function: 4 u, 8 u at most by what any mathematics library promises. A phase is then within 12 u, and
    a product adds 3 u.
    """
    return 16 * spatial * UNIT_ROUNDOFF


def _phases(
    frequencies: list[Frequencies], offsets: list[tuple[int, ...]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of omega . d, (frequencies, offsets) each."""
    cosine = torch.ones(1, len(offsets), dtype=torch.float64)
    sine = torch.zeros(1, len(offsets), dtype=torch.float64)
    for axis, along in zip(frequencies, zip(*offsets, strict=True), strict=True):
        distinct = sorted(set(along))
        table = [[cosine_sine(a * d, axis.side) for d in distinct] for a in axis.multiples]
        columns = [distinct.index(d) for d in along]
        c, s = torch.tensor(table, dtype=torch.float64)[:, columns].unbind(dim=-1)
        cosine, sine = cosine[:, None] * c - sine[:, None] * s, cosine[:, None] * s + sine[:, None] * c
        cosine, sine = cosine.flatten(0, 1), sine.flatten(0, 1)
    return cosine.to(device), sine.to(device)


def cosine_sine(numerator: int, denominator: int) -> tuple[float, float]:
    """Return cosine and sine of pi * numerator / denominator, each to 8 u: the angle is reduced in integers."""
    a, n = numerator % (2 * denominator), denominator
    if a > n:
        cosine, sine = cosine_sine(2 * n - a, n)
        return cosine, -sine
    if 2 * a > n:
        cosine, sine = cosine_sine(n - a, n)
        return -cosine, sine
    if 4 * a > n:
        # pi / 2 - pi a / n.
        angle = math.pi * (n - 2 * a) / (2 * n)
        return math.sin(angle), math.cos(angle)
    angle = math.pi * a / n
    return math.cos(angle), math.sin(angle)
