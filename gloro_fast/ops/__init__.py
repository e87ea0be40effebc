"""The operations of the package, one file each: the op, its gradient, and its plain-PyTorch oracle beside it.

Stands on ``native``, which says what runs compiled, and ``rounding``; everything that computes calls it. The file of an
op ``x`` that is handed out here is ``x_op``, so that ``ops.x`` is the op.
"""

from gloro_fast.ops.cross_entropy_op import cross_entropy, cross_entropy_reference
from gloro_fast.ops.dense_op import dense, dense_reference
from gloro_fast.ops.emma_op import emma, emma_reference
from gloro_fast.ops.fingerprint_op import fingerprint, fingerprint_reference, fingerprint_shares
from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.head_differences_op import head_differences, head_differences_reference
from gloro_fast.ops.lmt_op import lmt, lmt_reference
from gloro_fast.ops.logit_annealing_op import logit_annealing, logit_annealing_reference
from gloro_fast.ops.margin_loss_op import margin_loss, margin_loss_reference
from gloro_fast.ops.margin_op import margin, margin_reference
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.ops.minmax_op import minmax, minmax_reference
from gloro_fast.ops.power_iteration_op import power_iteration, power_iteration_reference
from gloro_fast.ops.relaxed_margin_op import relaxed_margin, relaxed_radii
from gloro_fast.ops.trades_op import trades, trades_reference
from gloro_fast.ops.verified_error_op import verified_error, verified_error_reference

__all__ = [
    "Geometry",
    "cross_entropy",
    "cross_entropy_reference",
    "dense",
    "dense_reference",
    "emma",
    "emma_reference",
    "fingerprint",
    "fingerprint_reference",
    "fingerprint_shares",
    "head_differences",
    "head_differences_reference",
    "lmt",
    "lmt_reference",
    "logit_annealing",
    "logit_annealing_reference",
    "margin",
    "margin_loss",
    "margin_loss_reference",
    "margin_reference",
    "minmax",
    "minmax_",
    "minmax_reference",
    "power_iteration",
    "power_iteration_reference",
    "relaxed_margin",
    "relaxed_radii",
    "trades",
    "trades_reference",
    "verified_error",
    "verified_error_reference",
]
