"""The networks that are measured, and synthetic data of their shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gloro_fast import architectures
from gloro_fast.data.dataset import DataSet, Split
from gloro_fast.graph.plan import make_plan
from gloro_fast.recipes import Recipe, get
from gloro_fast.rules.registry import LinearMap

NUM_CLASSES = 10
LAMBDA = 1.5


@dataclass(frozen=True)
class Network:
    """A network of the paper with the batch it is measured at.

    Attributes:
        name: as ``gloro_fast.architectures`` calls it.
        recipe_name: the paper's recipe for it.
        input_shape: (C, H, W).
        batch_size: images a step.
        classes: of the head.
        precision: ``"float32"`` or ``"bfloat16"``.
    """

    name: str
    recipe_name: str
    input_shape: tuple[int, int, int]
    batch_size: int
    classes: int = NUM_CLASSES
    precision: str = "float32"

    @property
    def case(self) -> str:
        """Name and batch, for tables."""
        return f"{self.name}, batch {self.batch_size}"

    @property
    def recipe(self) -> Recipe:
        """MinMax with TRADES-KL, T = 5, Adam with eps 1e-7: the paper's recipe, without augmentation."""
        recipe = get(self.recipe_name).override(augmentation="none", batch_size=self.batch_size, epochs=1)
        return recipe.override(precision=self.precision)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context of a forward pass in the network's precision."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def linear_maps(self, device: torch.device) -> list[LinearMap]:
        """List the linear layers before the head, with Glorot's weights: orthogonal ones converge at once."""
        module = architectures.build(
            self.name, input_shape=self.input_shape, num_classes=self.classes, initialization="glorot_uniform"
        )
        return make_plan(module.to(device), self.input_shape).linear_maps()

    def data(self, images: int) -> DataSet:
        """Draw ``images`` random images and labels; the first batch serves as test split."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (images, *self.input_shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(self.classes, (images,), generator=generator)
        train = Split(pixels, labels)
        test = Split(pixels[: self.batch_size], labels[: self.batch_size])
        return DataSet("synthetic", train, test, tuple(str(label) for label in range(self.classes)))


NETWORKS = {
    network.name: network
    for network in (
        Network("2C2F", "mnist-2c2f", (1, 28, 28), 512),
        Network("4C3F", "mnist-4c3f", (1, 28, 28), 128),
        Network("6C2F", "cifar10-6c2f", (3, 32, 32), 128),
    )
}
