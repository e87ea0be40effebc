"""Layers that people put into their nets, each with its Lipschitz rule, and where to register rules of one's own.

Stands on ``ops`` and ``rules``. Graphs, bounds and architectures are made of these layers.
"""

from gloro_fast.nn.bcop import BCOP
from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.fourier_conv import BROConv2d, CayleyConv2d
from gloro_fast.nn.group_sort import GroupSort
from gloro_fast.nn.householder import Householder
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.normalize import Normalize, Scale
from gloro_fast.nn.orthogonal_linear import CayleyLinear, CholeskyLinear
from gloro_fast.nn.pairwise_minmax import PairwiseMinMax
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.nn.unit_rows import UnitRows
from gloro_fast.rules.functions import register_lipschitz_function
from gloro_fast.rules.registry import Diagonal, LinearMap, LipschitzConstant, register_lipschitz_rule
from gloro_fast.rules.traits import Affine, Traits

__all__ = [
    "BCOP",
    "Affine",
    "BROConv2d",
    "CayleyConv2d",
    "CayleyLinear",
    "CholeskyLinear",
    "Conv2d",
    "Diagonal",
    "GroupSort",
    "Householder",
    "LinearMap",
    "LipschitzConstant",
    "MinMax",
    "Normalize",
    "PairwiseMinMax",
    "ResidualConv2d",
    "Scale",
    "Traits",
    "UnitRows",
    "register_lipschitz_function",
    "register_lipschitz_rule",
]
