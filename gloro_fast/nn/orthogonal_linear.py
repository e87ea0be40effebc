"""Dense layers whose weight has orthonormal rows or columns."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from gloro_fast.nn.orthogonal_maps import cayley, cholesky_orthogonal


class Orthogonal(nn.Module):
    """Parametrization of a weight by the image of a parameter of the same shape under a map to orthogonal matrices.

    A kernel (out, in, ...) is one matrix with ``out`` rows: where its stride is its size, as of patches, the rows
    being orthonormal makes the convolution an orthogonal map.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, weight: Tensor) -> Tensor:
        """Return the image of ``weight`` (out, in, ...), rounded once to its type."""
        return self.transform(weight.flatten(1)).to(weight.dtype).view_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return ``weight``: assigning one sets the parameter, whose image the weight then is."""
        return weight


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
        register_parametrization(self, "weight", Orthogonal(cayley))


class CholeskyLinear(nn.Linear):
    """``torch.nn.Linear`` whose weight is made orthogonal by a Cholesky factor (Hu, Leino, Wang, Fredrikson 2024).

    Its rows or columns, whichever are fewer, are orthonormal but for rounding
    (:func:`gloro_fast.nn.orthogonal_maps.cholesky_orthogonal`), and bounds read the weight as it is then. The parameter
    is ``parametrizations.weight.original``, and starts orthogonal. Arguments are those of ``torch.nn.Linear``.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        nn.init.orthogonal_(self.weight)
        register_parametrization(self, "weight", Orthogonal(cholesky_orthogonal))
