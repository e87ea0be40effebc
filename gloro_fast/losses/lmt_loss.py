"""Lipschitz margin training (Tsuzuku et al. 2018)."""

from __future__ import annotations

from gloro_fast.losses.all_margins_loss import AllMarginsLoss
from gloro_fast.ops.lmt_op import lmt


class LmtLoss(AllMarginsLoss):
    """LMT: cross entropy with every wrong logit raised by epsilon times the Lipschitz constant of its margin.

    As published (Tsuzuku et al. 2018; the paper compares with it) that is sqrt(2) K epsilon with K of the whole net: so
    it is for ``GloRoNet(..., margins="whole")``. With a dense head it is epsilon K ||w_y - w_i||, which is less.
    Arguments and use are those of :class:`AllMarginsLoss`; the loss per row is ``gloro_fast.ops.lmt``.
    """

    name = "lmt"
    op = staticmethod(lmt)
