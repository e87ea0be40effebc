"""Training criteria of a GloRo net, one file a criterion, and the names by which recipes have them.

Stands on ``ops``. Recipes and the trainer look losses up by name; nets ask which criteria they may compute together
with the margin. A new one is a file and a line here.
"""

from gloro_fast.losses.all_margins_loss import AllMarginsLoss
from gloro_fast.losses.criterion import MarginCriterion
from gloro_fast.losses.cross_entropy_loss import CrossEntropyLoss
from gloro_fast.losses.emma_loss import EmmaLoss
from gloro_fast.losses.lmt_loss import LmtLoss
from gloro_fast.losses.registered import LOSSES, Loss, is_registered, register
from gloro_fast.losses.trades_loss import TradesLoss

register("ce", Loss(CrossEntropyLoss))
register("trades-kl", Loss(TradesLoss, (0.0, "kl"), has_lambda=True))
register("trades-ce", Loss(TradesLoss, (0.0, "ce"), has_lambda=True))
register("emma", Loss(EmmaLoss))
register("lmt", Loss(LmtLoss, margins="whole"))
register("standard", Loss(CrossEntropyLoss, with_bottom=False))

__all__ = [
    "LOSSES",
    "AllMarginsLoss",
    "CrossEntropyLoss",
    "EmmaLoss",
    "LmtLoss",
    "Loss",
    "MarginCriterion",
    "TradesLoss",
    "is_registered",
    "register",
]
