"""What a trained net is worth: clean and verified-robust accuracy, attacks, lower bounds."""

from gloro_fast.evaluate.accuracy import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
