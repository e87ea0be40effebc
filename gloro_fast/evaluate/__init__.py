"""What a trained net is worth: clean and verified-robust accuracy, its curve over the radius, attacks.

The curve draws with matplotlib: import it from ``gloro_fast.evaluate.curve``; ``pgd`` and ``unbroken`` need the
extra ``attack``. Stands on ``net``, ``data`` and ``recipes.paper``; training, reproductions and commands call it.
"""

from gloro_fast.evaluate.accuracy import Evaluation, evaluate
from gloro_fast.evaluate.attack import AttackReport, pgd, unbroken
from gloro_fast.evaluate.relaxed import RelaxedCertificate, certify_relaxed

__all__ = ["AttackReport", "Evaluation", "RelaxedCertificate", "certify_relaxed", "evaluate", "pgd", "unbroken"]
