"""The Fourier symbol of a convolution: one small matrix a frequency."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.bounds.rounding import UNIT_ROUNDOFF, add_up, gamma, norm_up


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
        """Give those of a torus of ``side``: (2 pi j + pi twist) / side, those >= 0 and <= pi alone if ``half``."""
        return cls(side, range(twist, side + 1 if half else 2 * side, 2))


@dataclass(frozen=True)
class Symbol:
    """K'(omega) = sum over taps q of K'_q exp(i omega . q), of G groups.

    Attributes:
        taps: (q_1 ... q_d, G, rows, columns) float64, one matrix a tap.
        error: what to add to the norm of a computed symbol for that of the real one.
    """

    taps: Tensor
    error: float

    @classmethod
    def of(cls, kernel: Tensor, positions: list[list[int]], strides: list[int]) -> Symbol:
        """Gather the taps by phase ("polyphase"): a strided convolution is one of stride 1 on the input's cells.

        Tap u at position t_u = s q + rho (0 <= rho < s) acts on component rho of the cell that is q further, a cell
        being s neighbouring inputs along every axis. That only renames the inputs.

        The error: with phases known to delta and T taps, real and imaginary part of an entry are each within
        (delta + gamma_T (1 + delta)) sum_q |K'_q| of the real ones, so that the matrix is within
        2 (delta + gamma_(T+1)) || sum_q |K'_q| ||_F, twice being more than the root of 2.

        Args:
            kernel: (G, rows, columns, *taps) float64.
            positions: where each tap lies, >= 0, for every axis.
            strides: s for every axis.
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
        taps = cells.reshape(*extents, groups, rows, columns * math.prod(strides))
        count = math.prod(extents)
        sums = taps.reshape(count, groups, -1).abs().sum(dim=0)
        largest = float(norm_up(sums, 1).max()) * (1 + gamma(count + 8))
        factor = 2 * add_up(_phase_error(len(extents)), gamma(count + 1))
        # The phase of a single tap is 1.
        return cls(taps, largest * factor if count > 1 else 0.0)

    @property
    def spatial(self) -> int:
        """How many axes there are."""
        return self.taps.ndim - 3

    def at(self, frequencies: list[Frequencies]) -> tuple[Tensor, Tensor | None]:
        """Evaluate by explicit sums at the grid of the frequencies of every axis.

        Returns:
            real and imaginary parts, each (frequencies * G, rows, columns); of a single tap the real part alone.
        """
        if math.prod(self.taps.shape[: self.spatial]) == 1:
            return self.taps.flatten(0, self.spatial), None
        cosine, sine = _phases(frequencies, self.taps.shape[: self.spatial], self.taps.device)
        shape = (-1, *self.taps.shape[-2:])
        flat = self.taps.reshape(cosine.shape[1], -1)
        return (cosine @ flat).reshape(shape), (sine @ flat).reshape(shape)


def _phase_error(spatial: int) -> float:
    """Give more than the error of a product of ``spatial`` phases.

    A cosine or sine is of an angle of at most pi / 4, known to 3 u relatively, so within 2.5 u, plus the last place of
    the library's function: 4 u, 8 u at most by what any mathematics library promises. A phase is then within 12 u, and
    a product adds 3 u.
    """
    return 16 * spatial * UNIT_ROUNDOFF


def _phases(frequencies: list[Frequencies], extents: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Give cosine and sine of omega . q, (frequencies, taps) each."""
    cosine, sine = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for axis, extent in zip(frequencies, extents, strict=True):
        table = [[cosine_sine(a * q, axis.side) for q in range(extent)] for a in axis.multiples]
        c, s = torch.tensor(table, dtype=torch.float64).unbind(dim=-1)
        cosine, sine = torch.kron(cosine, c) - torch.kron(sine, s), torch.kron(cosine, s) + torch.kron(sine, c)
    return cosine.to(device), sine.to(device)


def cosine_sine(numerator: int, denominator: int) -> tuple[float, float]:
    """Give cosine and sine of pi * numerator / denominator, each to 8 u: the angle is reduced in integers."""
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
