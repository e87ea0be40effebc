"""Methods that find the Lipschitz constant of a layer, one a file, and how layers make a network.

A method is called by name. Every number that rests on one is printed with that name, and an estimate is called
an estimate. Stands on ``rules``, ``ops`` and ``rounding``; graphs, signed bounds, rounding errors and the command line
ask for bounds.
"""

from gloro_fast.bounds.auto import work as bound_work
from gloro_fast.bounds.head_differences import general_difference_bounds
from gloro_fast.bounds.layer import LayerBound, NetworkBound
from gloro_fast.bounds.network import DEFAULT_METHOD, METHODS, bound_network, check_method
from gloro_fast.ops.head_difference_bounds_op import head_difference_bounds

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "LayerBound",
    "NetworkBound",
    "bound_network",
    "bound_work",
    "check_method",
    "general_difference_bounds",
    "head_difference_bounds",
]
