"""Lipschitz margin training (Tsuzuku et al. 2018), a method that the paper compares with."""

from __future__ import annotations

from gloro_fast.losses import AllMarginsLoss
from gloro_fast.ops.lmt import lmt


class LmtLoss(AllMarginsLoss):
    """LMT: cross entropy with every wrong logit raised by epsilon times the Lipschitz constant of its margin.

    As published that is sqrt(2) K epsilon with K of the whole net: so it is for ``GloRoNet(..., margins="whole")``.
    With a dense head it is epsilon K ||w_y - w_i||, which is less. Arguments and use are those of
    :class:`~gloro_fast.losses.AllMarginsLoss`; the loss per row is ``gloro_fast.ops.lmt``.
    """

    name = "lmt"
    op = staticmethod(lmt)
