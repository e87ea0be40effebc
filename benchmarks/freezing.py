"""How long it takes to freeze a large net with random weights, and the most memory that the process had.

    python -m benchmarks.freezing resnet18-32      # resnet18-224, vgg11-32, vgg11-224, liresnet-32, head-10000

Run as a program, so that the memory is that of one net; the bytes before freezing are printed as well. It uses all
cores, unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gloro_fast import GloRoNet, architectures


class _Block(nn.Module):
    """The basic block of a residual net (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return result


def resnet18() -> nn.Module:
    """Build ResNet-18 for ImageNet, 1,000 classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = 64
    for outputs in (64, 128, 256, 512):
        layers += [_Block(inputs, outputs, 1 if outputs == 64 else 2), _Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def vgg11() -> nn.Module:
    """Build VGG-11 for ImageNet, 1,000 classes (Simonyan, Zisserman 2015)."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()] if outputs else [nn.MaxPool2d(2, 2)]
        inputs = outputs or inputs
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten()]
    layers += [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers)


def liresnet() -> nn.Module:
    """Build LiResNet-12x512 for CIFAR-10."""
    return architectures.build("LiResNet-12x512", input_shape=(3, 32, 32), num_classes=10)


def many_classes() -> nn.Module:
    """Build a small net of 10,000 classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 512), nn.ReLU(), nn.Linear(512, 10_000))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18-32": (resnet18, (3, 32, 32)),
    "resnet18-224": (resnet18, (3, 224, 224)),
    "vgg11-32": (vgg11, (3, 32, 32)),
    "vgg11-224": (vgg11, (3, 224, 224)),
    "liresnet-32": (liresnet, (3, 32, 32)),
    "head-10000": (many_classes, (3, 4, 4)),
}


def main(arguments: list[str]) -> int:
    """Freeze one net and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=NETS)
    build, shape = NETS[parser.parse_args(arguments).net]
    torch.manual_seed(0)
    net = GloRoNet(build(), epsilon=0.1, input_shape=shape).eval()
    before, wall, processor = _largest(), time.perf_counter(), time.process_time()
    net.freeze()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{wall:.2f} s, {processor:.2f} s of all cores; {before:.2f} GB before, {_largest():.2f} GB at most")
    return 0


def _largest() -> float:
    """Return the largest resident set so far, in GB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
