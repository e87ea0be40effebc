"""Layers that know their Lipschitz constant, and the rules for those of PyTorch."""

# The rules register themselves.
from gloro_fast.nn import activation_rules as activation_rules
from gloro_fast.nn import batch_norm as batch_norm
from gloro_fast.nn import linear_rules as linear_rules
from gloro_fast.nn import log_softmax as log_softmax
from gloro_fast.nn import pooling_rules as pooling_rules
from gloro_fast.nn import scaling_rules as scaling_rules
from gloro_fast.nn import shape_rules as shape_rules
from gloro_fast.nn.conv import Conv2d
from gloro_fast.nn.functions import register_lipschitz_function
from gloro_fast.nn.group_sort import GroupSort
from gloro_fast.nn.householder import Householder
from gloro_fast.nn.minmax import MinMax
from gloro_fast.nn.normalize import Normalize, Scale
from gloro_fast.nn.pairwise_minmax import PairwiseMinMax
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.nn.rules import Diagonal, LinearMap, LipschitzConstant, register_lipschitz_rule

__all__ = [
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
    "register_lipschitz_function",
    "register_lipschitz_rule",
]
