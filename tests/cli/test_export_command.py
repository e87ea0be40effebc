from __future__ import annotations

import pytest
import torch

from gloro_fast.export import read_description


def test_a_run_is_exported_as_a_program(invoke, run):
    result = invoke("export", run, "--format", "pt2", "--epsilon", "0.1", "--no-executed")
    assert result.exit_code == 0, result.output
    assert "K = " in result.stdout
    written = read_description(run / "net.pt2")
    assert (written.epsilon, written.executed, written.method) == (0.1, False, "auto")
    logits, prediction, radius = torch.export.load(run / "net.pt2").module()(torch.zeros(3, *written.input_shape))
    assert logits.shape == (3, written.classes)
    assert torch.equal(prediction == written.classes, radius <= 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onxx"), "did you mean 'onnx'"),
        (("--out", "net.pt2"), "ends in .onnx"),
        (("--epsilon", "0"), "greater than 0"),
        (("--method", "no"), "no"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(refused, trained, arguments, message):
    assert message in refused("export", trained, *arguments)
