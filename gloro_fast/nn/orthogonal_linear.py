"""Dense layers whose weight has orthonormal rows or columns."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_fast.nn.orthogonal_maps import cayley, cholesky_orthogonal


class _Orthogonal(nn.Module):
    """Parametrization of a weight by the image of a matrix of the same shape under a map to orthogonal ones."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, weight: Tensor) -> Tensor:
        return self.transform(weight).to(weight.dtype)


class CayleyLinear(nn.Linear):
    """``torch.nn.Linear`` whose weight is the Cayley transform of a parameter (Trockman and Kolter 2021).

    Its rows or columns, whichever are fewer, are orthonormal but for rounding
    (:func:`gloro_fast.nn.orthogonal_maps.cayley`), and bounds read the weight as it is then. The parameter is
    ``parametrizations.weight.original``, and starts with the variance of Glorot and Bengio. The factor that the paper
    learns for the norm of the parameter is left out. Arguments are those of ``torch.nn.Linear``.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.xavier_normal_(self.weight)
        register_parametrization(self, "weight", _Orthogonal(cayley))


class CholeskyLinear(nn.Linear):
    """``torch.nn.Linear`` whose weight is made orthogonal by a Cholesky factor (Hu, Leino, Wang, Fredrikson 2024).

    Its rows or columns, whichever are fewer, are orthonormal but for rounding
    (:func:`gloro_fast.nn.orthogonal_maps.cholesky_orthogonal`), and bounds read the weight as it is then. The parameter
    is ``parametrizations.weight.original``, and starts orthogonal. Arguments are those of ``torch.nn.Linear``.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.orthogonal_(self.weight)
        register_parametrization(self, "weight", _Orthogonal(cholesky_orthogonal))
