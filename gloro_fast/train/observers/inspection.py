"""What a net is like after an epoch: the norms of its layers and the radii of some images, all of it estimates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gloro_fast.evaluate import evaluate
from gloro_fast.train.observers.base import RunStart


@dataclass(frozen=True)
class Inspection:
    """Estimates by power iteration, to convergence.

    Attributes:
        norms: the Lipschitz constant of each layer before the head, by name; those that a rule knows are left out.
        radius: (N,) float64, the radii of the watched images, 0 where the prediction is wrong.
    """

    norms: dict[str, float]
    radius: Tensor


def inspect_net(run: RunStart) -> Inspection:
    """Look at the present weights of the net of ``run``; nothing of the training changes."""
    net = run.net
    # As in validation: estimates are there to compare epochs. The images are never those of the test split.
    net.freeze("power")
    try:
        found = evaluate(net, run.watched, keep_logits=False)
        norms = {layer.name: layer.value for layer in net.bound.layers if layer.method != "rule"}
    finally:
        net.unfreeze()
    return Inspection(norms, found.radius.where(found.correct, 0.0))
