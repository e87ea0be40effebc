"""Gram iteration with its rounding carried along (Delattre et al. 2023; Tobler, Syeda, Murray 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.bounds.rounding import gamma, norm_up, up

_MAX_STEPS = 30
_SMALL = 2.0**-30


def gram(real: Tensor, imag: Tensor | None, tolerance: float, floor: float = 0.0, ceiling: float = math.inf) -> float:
    """Give a float >= the largest spectral norm of B matrices with these float64 entries, if it is at least 2^-400.

    For every matrix G, ||G||^2 = ||G^H G|| <= ||fl(G^H G)|| + e, and ||G|| <= ||G||_F. So with G_0 = G and
    G_(t+1) = 2^(-x_t) fl(G_t^H G_t), where the power of two is exact,

        ||G_t|| <= sqrt(2^(x_t) ||G_(t+1)|| + e_t),      ||G_T|| <= ||G_T||_F,

    which is unwound from the last step to the first, each operation rounded up. In exact arithmetic the result would be
    at most r^(1 / 2^(T + 1)) times the norm, for matrices of rank r: every step halves what is lacking.

    The error e_t: for real G of p rows, each entry of fl(G^T G) is a sum of p products, so that it is within
    gamma_p (|G|^T |G|) of the real one, entry by entry, and e = gamma_p || |G| ||_F^2 = gamma_p ||G||_F^2. For
    G = X + iY, fl(G^H G) is made of real sums, S = X^T X + Y^T Y (2p products) and Q - Q^T with Q = X^T Y
    (p products and a difference), so that the error of an entry is at most gamma_(2p+1) times that of
    (|X| + |Y|)^T (|X| + |Y|), and e = 2 gamma_(2p+1) ||G||_F^2. That is true of every order of summation and of fused
    multiply-adds, but not of Strassen's method, which no BLAS uses for float64. TF32 does not exist for float64. What
    underflows (||G_t||_F is at least 2^-30, or G too small to be the largest) is less than the last rounding up adds.

    Nothing rests on G^H G being stored symmetric, nor on how far the iteration went, so that each matrix is left off as
    soon as another is certainly larger; what was found for it by then counts.

    Args:
        real: (B, p, q) float64 with entries up to 2^60.
        imag: the same for the imaginary parts; None for real matrices.
        tolerance: go on until the result is within about this relative distance of the largest norm.
        floor: what the caller takes the maximum with: matrices below it need not be looked at closely.
        ceiling: where the largest norm is above this, give up and return inf.
    """
    if real.shape[-1] > real.shape[-2]:
        # The transpose has the same norm, and a smaller Gram matrix.
        real, imag = real.mT, None if imag is None else imag.mT
    rank = real.shape[-1]
    state = _Iterate.scaled(real, imag, (), ())
    result = floor
    # What the Frobenius norm exceeds the spectral norm by, at most; its root is taken at every step.
    excess = math.sqrt(rank)
    previous = math.inf
    for _ in range(_MAX_STEPS):
        bounds = state.bounds()
        largest = float(bounds.max())
        if not largest < math.inf:
            return math.inf
        below = max(largest / excess, floor)
        if below > ceiling:
            return math.inf
        close = bounds > below
        if not bool(close.any()) or largest <= below * (1 + tolerance) or previous - largest <= largest * tolerance:
            return max(result, largest)
        if not bool(close.all()):
            result = max(result, float(bounds[~close].max()))
            state = state.only(close)
        previous, excess = largest, math.sqrt(excess)
        state = state.step()
    return max(result, float(state.bounds().max()))


@dataclass(frozen=True)
class _Iterate:
    """G_t of every matrix, and what leads back from it to G_0.

    Attributes:
        real, imag: (B, p, q), of Frobenius norms in [2^-30, 1).
        frobenius: (B,), upper bounds on these.
        powers: of the start and each step, the (B,) powers of two divided out; None where there was none.
        errors: for each step the (B,) bounds e_t.
    """

    real: Tensor
    imag: Tensor | None
    frobenius: Tensor
    powers: tuple[Tensor | None, ...]
    errors: tuple[Tensor, ...]

    @classmethod
    def scaled(
        cls, real: Tensor, imag: Tensor | None, powers: tuple[Tensor | None, ...], errors: tuple[Tensor, ...]
    ) -> _Iterate:
        """Divide by powers of two where norms are far from 1: below 1 they only shrink, so that is a step in three."""
        frobenius = norm_up(real, 2)
        if imag is not None:
            frobenius = up(up(up(frobenius.square()) + up(norm_up(imag, 2).square())).sqrt())
        if bool((frobenius < 1).all()) and bool((frobenius >= _SMALL).all()):
            return cls(real, imag, frobenius, (*powers, None), errors)
        # By its bits: torch.ldexp goes through pow, which need not be exact.
        exponent = torch.frexp(frobenius).exponent.clamp_min(-1000)
        power = (exponent.long() + 1023 << 52).view(torch.float64)
        real = real / power[:, None, None]
        imag = None if imag is None else imag / power[:, None, None]
        return cls(real, imag, frobenius / power, (*powers, power), errors)

    def only(self, chosen: Tensor) -> _Iterate:
        """Keep the chosen matrices."""
        return _Iterate(
            self.real[chosen],
            None if self.imag is None else self.imag[chosen],
            self.frobenius[chosen],
            tuple(None if power is None else power[chosen] for power in self.powers),
            tuple(error[chosen] for error in self.errors),
        )

    def step(self) -> _Iterate:
        """Go from G_t to G_(t+1)."""
        rows = self.real.shape[-2]
        squares = up(self.frobenius.square())
        if self.imag is None:
            real, imag, factor = self.real.mT @ self.real, None, gamma(rows)
        else:
            cross = self.real.mT @ self.imag
            real = torch.baddbmm(self.real.mT @ self.real, self.imag.mT, self.imag)
            imag, factor = cross - cross.mT, 2 * gamma(2 * rows + 1)
        return self.scaled(real, imag, self.powers, (*self.errors, up(up(squares * factor))))

    def bounds(self) -> Tensor:
        """Unwind: (B,) upper bounds on the norms of the first matrices."""
        norm = self.frobenius
        for power, error in zip(reversed(self.powers[1:]), reversed(self.errors), strict=True):
            norm = up(up(_times(norm, power) + error).sqrt())
        return _times(norm, self.powers[0])


def _times(norm: Tensor, power: Tensor | None) -> Tensor:
    return norm if power is None else up(norm * power)
