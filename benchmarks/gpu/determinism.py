"""Whether the same seed trains to the same bits."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.rows import Rows, run
from gloro_fast.data import load
from gloro_fast.recipes import get
from gloro_fast.train import Trainer

RUNS = 3


def measure(rows: Rows) -> None:
    """Train three times on the digits and compare the weights; exit code 1 where they differ."""
    digests = {_trained(rows) for _ in range(RUNS)}
    rows.say(f"{RUNS} trainings of one seed end in {len(digests)} set(s) of weights: {', '.join(sorted(digests))}")
    if len(digests) > 1:
        raise SystemExit(1)


def _trained(rows: Rows) -> str:
    with tempfile.TemporaryDirectory() as folder:
        recipe = get("digits").override(epochs=1 if rows.fast else 3)
        trainer = Trainer(recipe, load("digits"), Path(folder) / "run", device=str(rows.device), observers=[])
        trainer.fit()
        weights = torch.cat([weight.detach().flatten().float() for weight in trainer.state.net.parameters()])
    return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()[:12]


if __name__ == "__main__":
    run(measure)
