"""docs/layers.md says of every layer what its rule says."""

import re
from pathlib import Path

import layer_samples
import pytest
import torch
from test_rules import SVD, constant, matrix

from gloro_fast.nn import LinearMap, LipschitzConstant
from gloro_fast.rules import registry
from gloro_fast.rules.registry import lipschitz_rule

PAGE = (Path(__file__).parents[2] / "docs" / "layers.md").read_text(encoding="utf-8")
ROWS = [
    (re.findall(r"`([\w.]+)`", names), kind.strip(), float(slack))
    for names, kind, slack in re.findall(r"^\| (`.*?) \| .*? \| ([a-z ]+) \| ([\d.e-]+) \|$", PAGE, flags=re.MULTILINE)
]
KINDS = {name: (kind, slack) for names, kind, slack in ROWS for name in names}


def documented(kind):
    return kind.__name__ if kind.__module__.startswith("torch.nn") else f"gloro_fast.nn.{kind.__name__}"


def test_every_layer_with_a_rule_stands_there_once():
    names = [name for names, *_ in ROWS for name in names]
    ours = [kind for kind in registry._RULES if kind.__module__.startswith(("torch.nn", "gloro_fast"))]
    assert sorted(names) == sorted(documented(kind) for kind in ours)


@pytest.mark.parametrize(("layer", "shape"), layer_samples.SAMPLES, ids=layer_samples.label)
def test_kind_and_slack_are_as_stated(layer, shape):
    kind, slack = KINDS[documented(registry.known_type(layer))]
    rule = lipschitz_rule("layer", layer, shape)
    assert kind == (rule.kind if isinstance(rule, LipschitzConstant) else "exact")
    if not isinstance(rule, LinearMap) and any(layer is linear for linear, _ in layer_samples.LINEAR):
        exact = torch.linalg.matrix_norm(matrix(layer, shape), 2).item()
        assert constant(rule) <= exact * (1 + slack + SVD)
