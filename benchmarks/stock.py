"""Stock PyTorch: the same architectures from ``torch.nn`` alone, and its standard training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import Network
from gloro_fast.models.architectures import ARCHITECTURES


@dataclass(frozen=True)
class Settings:
    """What a user of stock PyTorch may choose.

    Attributes:
        channels_last: memory format of weights and images, contiguous otherwise.
        inplace: whether ReLU writes over its input.
        fused: whether Adam is the fused kernel with eps 1e-7, as in gloro_fast; plain ``Adam(lr=...)`` otherwise.
    """

    channels_last: bool = False
    inplace: bool = False
    fused: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format by torch's name."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        return ", ".join(
            [
                "channels_last" if self.channels_last else "NCHW",
                "fused Adam" if self.fused else "default Adam",
                *(["in-place ReLU"] if self.inplace else []),
            ]
        )


PLAIN = Settings()
CANDIDATES = [
    Settings(channels_last, inplace, fused=True) for channels_last in (False, True) for inplace in (False, True)
]


def build(network: Network, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Build the network from ``torch.nn``; layers and weights have the names that ``gloro_fast`` gives them."""
    architecture = ARCHITECTURES[network.name]
    channels, height, width = network.input_shape
    layers: list[nn.Module] = []
    for out_channels, kernel, stride in architecture.convolutions:
        # The SAME padding of kernels 3 (stride 1) and 4 (stride 2) is one pixel on each side.
        layers += [nn.Conv2d(channels, out_channels, kernel, stride, padding=1), activation()]
        channels, height, width = out_channels, height // stride, width // stride
    layers.append(nn.Flatten())
    features = channels * height * width
    for units in architecture.dense:
        layers += [nn.Linear(features, units), activation()]
        features = units
    return nn.Sequential(*layers, nn.Linear(features, network.classes))


class StandardStep:
    """A step of standard training: ReLU net, cross entropy, Adam.

    Args:
        network: the architecture.
        settings: memory format, ReLU in place or not, optimizer.
        images: (B, C, H, W), on the device to train on.
        labels: (B,).
        capturable: whether a CUDA graph can hold the step.
    """

    def __init__(
        self, network: Network, settings: Settings, images: Tensor, labels: Tensor, capturable: bool = False
    ) -> None:
        module = build(network, lambda: nn.ReLU(inplace=settings.inplace))
        self.module = module.to(images.device, memory_format=settings.memory_format)  # type: ignore[call-overload]
        self.optimizer = adam(self.module, settings.fused, capturable)
        self._network = network
        self._memory_format = settings.memory_format
        self.images = self._laid_out(images)
        self.labels = labels

    def __call__(self) -> Tensor:
        """Step on the batch given at construction."""
        return self.train_on(self.images, self.labels)

    def train_on(self, images: Tensor, labels: Tensor) -> Tensor:
        """Step on another batch."""
        self.optimizer.zero_grad(set_to_none=True)
        with self._network.autocast(images.device):
            loss = F.cross_entropy(self.module(self._laid_out(images)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def resident(self) -> list[Tensor]:
        """List the tensors that live on between steps, gradients apart."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.module.parameters(), *moments, self.images, self.labels]

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self._memory_format)


def adam(module: nn.Module, fused: bool, capturable: bool = False) -> torch.optim.Adam:
    """Return the fused Adam with the recipe's eps, or the one that ``Adam(lr=...)`` gives."""
    if fused:
        return torch.optim.Adam(module.parameters(), lr=1e-3, eps=1e-7, fused=True, capturable=capturable)
    return torch.optim.Adam(module.parameters(), lr=1e-3, capturable=capturable)
