"""The operations of the package, one file each: the op, its gradient, and its plain-PyTorch oracle beside it."""

from gloro_fast.ops.cross_entropy import cross_entropy, cross_entropy_reference
from gloro_fast.ops.dense import dense, dense_reference
from gloro_fast.ops.emma import emma, emma_reference
from gloro_fast.ops.fingerprint import fingerprint, fingerprint_reference, fingerprint_shares
from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.head_differences import head_differences, head_differences_reference
from gloro_fast.ops.lmt import lmt, lmt_reference
from gloro_fast.ops.margin import margin, margin_reference
from gloro_fast.ops.margin_loss import margin_loss, margin_loss_reference
from gloro_fast.ops.minmax import minmax, minmax_reference
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.ops.power_iteration import power_iteration, power_iteration_reference
from gloro_fast.ops.trades import trades, trades_reference

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
    "margin",
    "margin_loss",
    "margin_loss_reference",
    "margin_reference",
    "minmax",
    "minmax_",
    "minmax_reference",
    "power_iteration",
    "power_iteration_reference",
    "trades",
    "trades_reference",
]
