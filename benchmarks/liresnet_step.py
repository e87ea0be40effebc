"""A training step of LiResNet beside the same step in plain PyTorch, its bound by one grouped convolution.

    python -m benchmarks.liresnet_step [--architecture LiResNet-12x64] [--rounds 15] [--threads N]

Ours is ``Trainer.step`` as it is used. Theirs is what a good author would write with PyTorch's own operations: kernels
with the identity added once a step, the power iteration of the residual convolutions as groups of one convolution,
EMMA, fused Adam; no metrics, no radius. Of theirs the memory formats and two ways to pair channels in MinMax
(neighbours, as ours, or the first half with the second) are tried out first; the fastest is then measured anew beside
ours, step by step in random order. Both are measured in float32 and in bfloat16 (autocast). All share one process that
keeps freed memory, as ``gloro-fast train`` does. A quiet machine only.

On two cores of an AMD EPYC (Zen 5), LiResNet-12x64 at batch 256, 12 rounds:

| step | median (quartiles) |
|---|---|
| gloro_fast, float32 | 580 ms (572 to 589) |
| plain, float32 | 893 ms (882 to 903) |
| gloro_fast, bfloat16 | 321 ms (315 to 324) |
| plain, bfloat16 | 578 ms (565 to 593) |

| ours / theirs | ratio [95 % interval] |
|---|---|
| float32 | 0.650 [0.633, 0.662] |
| bfloat16 | 0.553 [0.543, 0.561] |

Of ours 97 % are oneDNN's convolutions in float32 (forward, by data, by weights: 179, 164 and 217 ms) and nearly as much
in bfloat16; MinMax takes 11 ms both ways and the bound 17. Theirs spends a third on MinMax.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import eager
from benchmarks.candidates import fastest
from benchmarks.interleaving import Job, at_once
from benchmarks.ratios import paired_ratio, spread
from benchmarks.step_process import settle
from benchmarks.stock import adam
from gloro_fast.data import DataSet, Split
from gloro_fast.models.liresnet import parse
from gloro_fast.ops import Geometry
from gloro_fast.recipes import Recipe, get
from gloro_fast.train import Trainer, keep_freed_memory

INPUT_SHAPE, CLASSES, ITERATIONS = (3, 32, 32), 10, 5
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Plain:
    """What an author of the plain step may choose.

    Attributes:
        channels_last: memory format of weights and images, contiguous otherwise.
        neighbours: whether MinMax pairs neighbouring channels, else the first half of them with the second.
    """

    channels_last: bool
    neighbours: bool

    def __str__(self) -> str:
        pairs = "neighbours" if self.neighbours else "halves"
        return f"{'channels_last' if self.channels_last else 'NCHW'}, pairs of {pairs}"


CANDIDATES = [Plain(channels_last, neighbours) for channels_last in (False, True) for neighbours in (False, True)]


class HalfSort(nn.Module):
    """MinMax of each channel of the first half with its like in the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Sort the pairs of ``x`` (B, C, ...)."""
        a, b = x.chunk(2, 1)
        return torch.cat((torch.minimum(a, b), torch.maximum(a, b)), 1)


class LinearResidual(nn.Conv2d):
    """x + conv(x) by one kernel, with the identity added."""

    identity: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)
        self.register_buffer("identity", nn.init.dirac_(torch.empty_like(self.weight)), persistent=False)

    def merged(self) -> Tensor:
        """Return the kernel."""
        return self.weight + self.identity

    def forward(self, x: Tensor) -> Tensor:
        """Apply the kernel of the step."""
        return F.conv2d(x, self.kernel, self.bias, padding=1)

    kernel: Tensor


class PlainStep:
    """The step in plain PyTorch.

    Args:
        trainer: the trainer whose weights it starts with.
        plain: memory format and pairs.
        precision: ``"float32"`` or ``"bfloat16"``.
        images: (B, C, H, W).
        labels: (B,).

    Attributes:
        iterates: of the power iteration of stem and neck, unit vectors (1, ...).
        together: those of the residual convolutions, one after the other along the channels.
    """

    def __init__(self, trainer: Trainer, plain: Plain, precision: str, images: Tensor, labels: Tensor) -> None:
        recipe = trainer.config.recipe
        read = parse(recipe.architecture)
        assert read is not None
        depth, width = read[:2]
        sort = eager.PairSort if plain.neighbours else HalfSort
        input_shape = trainer.config.input_shape
        side = -(-input_shape[1] // 2)
        features, units = width * (side // 4) ** 2, 4 * width
        blocks = [layer for _ in range(depth) for layer in (LinearResidual(width), sort())]
        self.module = nn.Sequential(
            nn.Identity(),  # where ours has its Normalize, so that the weights have the same names
            nn.Conv2d(input_shape[0], width, 5, 2, padding=2),
            sort(),
            *blocks,
            nn.Conv2d(width, width, 4, 4),
            nn.Flatten(),
            nn.Linear(features, units),
            sort(),
            nn.Linear(units, CLASSES),
        )
        self.module.load_state_dict(trainer.net.module.state_dict(), strict=False)
        self._format = torch.channels_last if plain.channels_last else torch.contiguous_format
        self.module.to(memory_format=self._format)  # type: ignore[call-overload]
        self._blocks = [layer for layer in self.module if isinstance(layer, LinearResidual)]
        others = [layer for layer in self.module if isinstance(layer, nn.Conv2d | nn.Linear)]
        self._others = [layer for layer in others if not isinstance(layer, LinearResidual)]
        self._head = self._others.pop()
        same = (1, 1)
        self._block = Geometry((width, side, side), same, (same, same), same)
        self._geometries = [
            Geometry(input_shape, (2, 2), ((2, 2), (2, 2)), same),
            Geometry((width, side, side), (4, 4), ((0, 0), (0, 0)), same),
            Geometry((features,)),
        ]
        self.iterates = eager.start(self._geometries, images.device)
        self.together = torch.cat(eager.start([self._block] * depth, images.device), dim=1)
        self._epsilon, self._precision = trainer.net.epsilon, precision
        self.optimizer = adam(self.module, fused=True)
        self.images, self.labels = images.contiguous(memory_format=self._format), labels

    def loss(self) -> Tensor:
        """Return the loss of the batch."""
        kernels = [block.merged() for block in self._blocks]
        for block, kernel in zip(self._blocks, kernels, strict=True):
            block.kernel = kernel
        with torch.autocast("cpu", torch.bfloat16, enabled=self._precision == "bfloat16"):
            logits = self.module(self.images - 0.5)
        sigmas = [
            eager.grouped_spectral_norms(kernels, self.together, self._block, ITERATIONS),
            eager.spectral_norms([x.weight for x in self._others], self.iterates, self._geometries, ITERATIONS),
        ]
        return self._emma(logits.float(), torch.cat(sigmas).prod())

    def __call__(self) -> Tensor:
        """Step on the batch."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def _emma(self, logits: Tensor, lipschitz: Tensor) -> Tensor:
        head = self._head.weight
        differences = (head[:, None] - head[None]).norm(dim=2)
        rise = self._epsilon * lipschitz * differences[self.labels]
        gap = logits - logits.gather(1, self.labels[:, None])
        share = (-gap / rise.clip(1e-8)).clip(0.01, 1).detach()
        return F.cross_entropy(gap + share * rise, self.labels)


def recipe_of(architecture: str, batch: int, precision: str) -> Recipe:
    """Return the recipe of both: EMMA, T = 5, no augmentation."""
    return get("cifar10-liresnet").override(
        architecture=architecture,
        augmentation="none",
        batch_size=batch,
        epochs=1,
        power_iterations=ITERATIONS,
        precision=precision,
    )


def noise(batch: int, input_shape: tuple[int, int, int] = INPUT_SHAPE) -> DataSet:
    """Draw a batch of images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, *input_shape), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(CLASSES, (batch,), generator=generator))
    return DataSet("noise", split, split, tuple("0123456789"))


def contenders(architecture: str, batch: int, folder: Path) -> tuple[dict[str, Job], list[str]]:
    """Make ours and the fastest of theirs in both precisions; and say how fast the others were."""
    jobs: dict[str, Job] = {}
    lines = []
    data = noise(batch)
    images, labels = data.train.images.float() / 255, data.train.labels
    for precision in PRECISIONS:
        trainer = Trainer(recipe_of(architecture, batch, precision), data, folder / precision)
        trainer.net.train()
        pixels = images.contiguous(memory_format=torch.channels_last)
        jobs[f"gloro_fast, {precision}"] = lambda trainer=trainer, x=pixels: trainer.step(x, labels)  # type: ignore[misc]
        plain = {choice: PlainStep(trainer, choice, precision, images, labels) for choice in CANDIDATES}
        best, medians = fastest(plain, at_once, 3)
        tried = "; ".join(f"{choice} {1e3 * seconds:.0f} ms" for choice, seconds in medians.items())
        lines.append(f"plain in {precision}, tried: {tried}")
        jobs[f"plain, {precision}"] = plain[best]
    return jobs, lines


def measure(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each job, round by round, after one of warm-up."""
    order, generator = list(jobs), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(1 + rounds):
        generator.shuffle(order)
        for name in order:
            settle()
            start = time.perf_counter()
            jobs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: each[1:] for name, each in seconds.items()}


def table(seconds: Mapping[str, list[float]]) -> list[str]:
    """Lay out the medians with their quartiles, and the ratios with their 95 % intervals."""
    lines = ["| step | median (quartiles) |", "|---|---|"]
    for name, each in seconds.items():
        found = spread([1e3 * value for value in each])
        lines.append(f"| {name} | {found.median:.0f} ms ({found.lower:.0f} to {found.upper:.0f}) |")
    lines += ["", "| ours / theirs | ratio [95 % interval] |", "|---|---|"]
    for precision in PRECISIONS:
        ratio = paired_ratio(seconds[f"gloro_fast, {precision}"], seconds[f"plain, {precision}"])
        lines.append(f"| {precision} | {ratio.median:.3f} [{ratio.lower:.3f}, {ratio.upper:.3f}] |")
    return lines


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="LiResNet-12x64")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        jobs, lines = contenders(options.architecture, options.batch, Path(folder))
        seconds = measure(jobs, options.rounds)
    print(f"{options.architecture}, batch {options.batch}, T = {ITERATIONS}, {options.threads} threads, ", end="")
    print(f"{options.rounds} rounds, load {before:.1f} before and {os.getloadavg()[0]:.1f} after\n")
    print("\n".join([*table(seconds), "", *lines]))


if __name__ == "__main__":
    main()
