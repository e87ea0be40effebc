"""Training criteria of a GloRo net, one file a criterion, and the names by which recipes have them.

Stands on ``ops``. Recipes and the trainer look losses up by name; nets ask which criteria they may compute together
with the margin. A new one is a file and a line here.
"""

import importlib
from typing import TYPE_CHECKING

from gloro_fast.losses.registered import LOSSES, Loss, is_registered, register

if TYPE_CHECKING:
    from gloro_fast.losses.all_margins_loss import AllMarginsLoss
    from gloro_fast.losses.criterion import Criterion, MarginCriterion
    from gloro_fast.losses.cross_entropy_loss import CrossEntropyLoss
    from gloro_fast.losses.emma_loss import EmmaLoss
    from gloro_fast.losses.lmt_loss import LmtLoss
    from gloro_fast.losses.logit_annealing_loss import LogitAnnealingLoss
    from gloro_fast.losses.macer_loss import MacerLoss
    from gloro_fast.losses.relaxed_loss import RelaxedLoss
    from gloro_fast.losses.sampled_loss import SampledLoss
    from gloro_fast.losses.smoothadv_loss import SmoothAdvLoss
    from gloro_fast.losses.trades_loss import TradesLoss
    from gloro_fast.losses.verified_error_loss import VerifiedErrorLoss

register("ce", Loss("gloro_fast.losses.cross_entropy_loss:CrossEntropyLoss"))
register("trades-kl", Loss("gloro_fast.losses.trades_loss:TradesLoss", (0.0, "kl"), has_lambda=True))
register("trades-ce", Loss("gloro_fast.losses.trades_loss:TradesLoss", (0.0, "ce"), has_lambda=True))
register("emma", Loss("gloro_fast.losses.emma_loss:EmmaLoss"))
_VERIFIED_ERROR = "gloro_fast.losses.verified_error_loss:VerifiedErrorLoss"
register("verified-error", Loss(_VERIFIED_ERROR, (0.0,), has_lambda=True, largest_lambda=1.0))
register("logit-annealing", Loss("gloro_fast.losses.logit_annealing_loss:LogitAnnealingLoss"))
register("top-2", Loss("gloro_fast.losses.relaxed_loss:RelaxedLoss", (2,)))
register("top-3", Loss("gloro_fast.losses.relaxed_loss:RelaxedLoss", (3,)))
register("top-5", Loss("gloro_fast.losses.relaxed_loss:RelaxedLoss", (5,)))
register("lmt", Loss("gloro_fast.losses.lmt_loss:LmtLoss", margins="whole"))
register(
    "standard", Loss("gloro_fast.losses.cross_entropy_loss:CrossEntropyLoss", with_bottom=False, has_epsilon=False)
)
register("smoothadv", Loss("gloro_fast.losses.smoothadv_loss:SmoothAdvLoss", with_bottom=False, is_sampled=True))
_MACER = "gloro_fast.losses.macer_loss:MacerLoss"
register("macer", Loss(_MACER, has_lambda=True, with_bottom=False, has_epsilon=False, is_sampled=True))

__all__ = [
    "LOSSES",
    "AllMarginsLoss",
    "Criterion",
    "CrossEntropyLoss",
    "EmmaLoss",
    "LmtLoss",
    "LogitAnnealingLoss",
    "Loss",
    "MacerLoss",
    "MarginCriterion",
    "RelaxedLoss",
    "SampledLoss",
    "SmoothAdvLoss",
    "TradesLoss",
    "VerifiedErrorLoss",
    "is_registered",
    "register",
]

# Loaded when they are asked for: recipes, which the command line lists, need the names alone.
_HOMES = {
    "AllMarginsLoss": "all_margins_loss",
    "Criterion": "criterion",
    "CrossEntropyLoss": "cross_entropy_loss",
    "EmmaLoss": "emma_loss",
    "LmtLoss": "lmt_loss",
    "LogitAnnealingLoss": "logit_annealing_loss",
    "MacerLoss": "macer_loss",
    "MarginCriterion": "criterion",
    "RelaxedLoss": "relaxed_loss",
    "SampledLoss": "sampled_loss",
    "SmoothAdvLoss": "smoothadv_loss",
    "TradesLoss": "trades_loss",
    "VerifiedErrorLoss": "verified_error_loss",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gloro_fast.losses' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"gloro_fast.losses.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
