"""EMMA (Hu et al. 2023)."""

from __future__ import annotations

from gloro_fast.losses.all_margins_loss import AllMarginsLoss
from gloro_fast.ops.emma_op import emma


class EmmaLoss(AllMarginsLoss):
    """EMMA (Hu et al. 2023): cross entropy with every class raised by what the ball allows it, up to a tie.

    Arguments and use are those of :class:`AllMarginsLoss`; the loss per row is
    ``gloro_fast.ops.emma``.
    """

    name = "emma"
    op = staticmethod(emma)
