"""How far logits are from float64: those that certificates rest on must not come from TF32."""

from __future__ import annotations

import torch

from benchmarks.gpu.certifying import random_net
from benchmarks.gpu.rows import Rows, run
from benchmarks.gpu.steps import LARGEST
from benchmarks.networks import NETWORKS

ALLOWED = 3e-6  # of the largest logit


def measure(rows: Rows) -> None:
    """Compare the logits that a net certifies by, and those of its module, with float64; exit code 1 above 3e-6."""
    too_far = False
    for network in (NETWORKS["2C2F"], NETWORKS["6C2F"], LARGEST):
        net = random_net(network, rows.device)
        images = torch.rand(8 if rows.fast else 200, *network.input_shape, device=rows.device)
        with torch.no_grad():
            signed, plain = net(images)[:, :-1], net.module(images)
            exact = net.module.double()(images.double())
        of_signed, of_plain = (float((logits - exact).abs().max() / exact.abs().max()) for logits in (signed, plain))
        rows.say(f"{network.name}: error of signed logits {of_signed:.1e}, of a plain forward pass {of_plain:.1e}")
        too_far |= of_signed > ALLOWED
    if too_far:
        raise SystemExit(1)


if __name__ == "__main__":
    run(measure)
