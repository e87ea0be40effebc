"""Random graphs: what is executed is the module, and no gradient and no pair of inputs exceeds the bound.

``GLORO_FAST_FUZZ_GRAPHS=10000 pytest --timeout=0 tests/graph/test_fuzz.py`` tries as many.
"""

import os

import pytest
import torch
from random_graphs import OVERWRITING, SHAPE, RandomGraph

from gloro_fast import GloRoNet
from gloro_fast.graph import composition

GRAPHS = int(os.environ.get("GLORO_FAST_FUZZ_GRAPHS", "120"))
POINTS = 16


def largest_ratio(seed):
    """Bound one random graph; give the largest share of a bound K_ij that gradients and pairs of inputs reach."""
    module = RandomGraph(seed).double()
    net = GloRoNet(module, 0.1, SHAPE).eval().freeze("torus")
    assert net.bound.kind != "estimate"
    x = torch.randn(POINTS, *SHAPE, dtype=torch.float64)
    x = x.abs() if module.positive else x
    x.requires_grad_()
    logits = net._plan.run(x)
    torch.testing.assert_close(logits, module(x), rtol=1e-9, atol=1e-9)
    with torch.no_grad():  # Without gradients other operations may write over their input.
        torch.testing.assert_close(net._plan.run(x), module(x), rtol=1e-9, atol=1e-9)
    bounds = net.lipschitz * net._signed.differences
    step = torch.randn_like(x) * 0.1
    step = step.abs() if module.positive else step
    moved = net._plan.run((x + step).detach()) - logits.detach()
    worst = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        (gradient,) = torch.autograd.grad((logits[:, j] - logits[:, i]).sum(), x, retain_graph=True)
        reached = [
            gradient.flatten(1).norm(dim=1).max(),
            ((moved[:, j] - moved[:, i]).abs() / step.flatten(1).norm(dim=1)).max(),
        ]
        for value in reached:
            if value > 0:
                worst = max(worst, float(value.detach() / bounds[i, j]))
    return worst


def test_no_bound_is_exceeded():
    reached = [largest_ratio(seed) for seed in range(GRAPHS)]
    # A gradient is computed to about 1e-15; a bound that is reached exactly would be exceeded by that.
    beyond = [(seed, ratio) for seed, ratio in enumerate(reached) if ratio > 1 + 1e-12]
    assert not beyond, beyond[:5]
    assert sum(ratio > 0.9 for ratio in reached) > GRAPHS / 20  # The bounds are near enough that errors would show.


def test_graphs_write_over_their_values():
    modules = [RandomGraph(seed) for seed in range(60)]
    kinds = [(kind, which, module) for module in modules for kind, which, _ in module.program]
    written = [which for kind, which, module in kinds if module._overwrites(kind, which)]
    assert {"added to", *OVERWRITING} <= set(written)
    assert len(written) > 40


def largest(*terms):
    return max(terms, default=0.0)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("add_up", largest),  # A sum as if only one branch counted.
        ("root_sum_squares_up", largest),  # Tensors side by side likewise.
        ("product_up", lambda factors: max(min(f, 1.0) for f in factors)),  # Factors above 1 forgotten.
    ],
)
def test_a_planted_bug_is_found(monkeypatch, name, wrong):
    monkeypatch.setattr(composition, name, wrong)
    assert any(largest_ratio(seed) > 1 + 1e-6 for seed in range(40))
