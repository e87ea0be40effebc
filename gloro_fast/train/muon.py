"""Muon, whose steps have a chosen spectral norm: momentum, orthogonalized."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from gloro_fast.errors import ConfigError

# Of the quintic iteration, chosen by Jordan et al. for its slope at 0: five rounds take singular values from 0.01 up to
# between 0.7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for every parameter of a net, with weight decay that holds spectral norms down.

    The step of a matrix is its momentum with all singular values brought near 1, times the learning rate: Adam's, whose
    entries all are about as large, has a spectral norm that grows with the sides of the matrix, and Lipschitz constants
    with it. With decay w weights are w lr of the way to -step / w at each step, so that spectral norms stay below about
    1 / w (Pethick et al. 2025, "Training Deep Learning Models with Norm-Constrained LMOs", whose Scion this is but for
    the head and the biases).

    ``torch.optim.Muon`` has matrices alone, and reads the learning rate in Python, which no CUDA graph can.

    A kernel of a convolution (out, in, h, w) is a matrix (out, in h w) here, its step divided by sqrt(h w): the norm of
    the convolution, which is at most sqrt(h w) times the matrix's, is at most about the learning rate. The step of a
    vector is its momentum, scaled to a root mean square of a quarter of the learning rate.

    Args:
        params: parameters or groups of them, of a floating dtype.
        lr: learning rate, a number or a tensor, which a captured step reads.
        weight_decay: decoupled, times the learning rate.
        momentum: of the gradients' running mean, Nesterov's.
        dtype: of the matrix products of the orthogonalization: bfloat16 where the processor has it.

    Raises:
        ConfigError: a number is negative or not finite, or the momentum is 1 or more.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        bounds = {"lr": (lr, math.inf), "weight_decay": (weight_decay, math.inf), "momentum": (momentum, 1)}
        for name, (value, bound) in bounds.items():
            if not (isinstance(value, Tensor) or 0 <= value < bound):
                raise ConfigError(f"Muon's {name} is {value}; give a number from 0 on{', below 1' * (bound == 1)}")
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "dtype": dtype}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Do one step.

        Args:
            closure: computes the loss anew, with its gradients.

        Returns:
            What the closure returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                mean = state["momentum"].lerp_(parameter.grad, 1 - momentum)
                direction = _direction(parameter.grad.lerp(mean, momentum), group["dtype"])
                parameter.mul_(1 - rate * group["weight_decay"]).sub_(rate * direction)
        return loss


def _direction(mean: Tensor, dtype: torch.dtype) -> Tensor:
    if mean.ndim < 2:
        size = torch.linalg.vector_norm(mean).clamp(min=1e-12)
        return mean.mul(0.25 * math.sqrt(mean.numel())).div_(size)
    # (out, h, w, in), as channels_last has it in memory; the order of the columns does not matter.
    kernel = mean.movedim(1, -1)
    matrix = orthogonalized(kernel.flatten(1).to(dtype)).to(mean.dtype)
    return matrix.reshape(kernel.shape).movedim(-1, 1).div_(math.sqrt(mean[0, 0].numel()))


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors, with singular values between 0.68 and 1.21 (Jordan et al. 2024).

    Those below some 1/1000 of the largest end below that; zero stays zero.

    Args:
        matrix: (n, k) of a floating dtype.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.mT
    # Norms from float32: squares of small gradients underflow in half types.
    wide = wide / wide.float().norm().clamp(min=1e-12).to(wide.dtype)
    for _ in range(_ROUNDS):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if len(matrix) <= matrix.shape[1] else wide.mT
