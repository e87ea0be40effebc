"""The plain step of LiResNet takes the steps of the trainer, however it pairs channels."""

from __future__ import annotations

import pytest
import torch

from benchmarks.liresnet_step import CANDIDATES, HalfSort, PlainStep, measure, noise, recipe_of, table
from gloro_fast import ops
from gloro_fast.train import Trainer

# SAME padding of the stem is symmetric, as the plain one's, where the side is odd.
SHAPE, BATCH = (3, 7, 7), 6


def trainer(folder):
    return Trainer(recipe_of("LiResNet-2x4", BATCH, "float32"), noise(BATCH, SHAPE), folder / "run")


@pytest.mark.parametrize("plain", [plain for plain in CANDIDATES if plain.neighbours], ids=str)
def test_the_plain_step_is_a_step_of_the_trainer(plain, tmp_path):
    ours = trainer(tmp_path)
    ours.net.train()
    images, labels = noise(BATCH, SHAPE).train.images / 255, noise(BATCH, SHAPE).train.labels
    theirs = PlainStep(ours, plain, "float32", images, labels)
    stem, first, second, *neck = ours.net.iterates.vectors()
    theirs.together.copy_(torch.cat([first, second])[None])
    for iterate, vector in zip(theirs.iterates, [stem, *neck], strict=True):
        iterate.copy_(vector[None])
    for _ in range(3):
        ours.step(images, labels)
        theirs()
    trained = ours.net.module.state_dict()
    for name, weight in theirs.module.state_dict().items():
        torch.testing.assert_close(weight, trained[name], rtol=1e-3, atol=2e-4)


def test_halves_are_sorted_as_neighbours_are():
    x = torch.randn(3, 6, 4, 4)
    paired = torch.stack(x.chunk(2, 1), 2).flatten(1, 2)
    assert torch.equal(torch.stack(HalfSort()(x).chunk(2, 1), 2).flatten(1, 2), ops.minmax_reference(paired)[0])


def test_the_table_has_both_precisions():
    rounds = measure(
        {f"{who}, {precision}": list for who in ("gloro_fast", "plain") for precision in ("float32", "bfloat16")}, 2
    )
    assert {len(seconds) for seconds in rounds.values()} == {2}
    assert [line.split(" |")[0] for line in table(rounds)[-2:]] == ["| float32", "| bfloat16"]
