"""A small certified net with its certificate file, shared by the tests of the audit."""

from __future__ import annotations

import torch
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.certificate_file import CertificateFile
from gloro_fast.data import Split
from gloro_fast.evaluate import evaluate
from gloro_fast.nn import Conv2d, MinMax


def small_net(dtype: torch.dtype = torch.float32) -> GloRoNet:
    torch.manual_seed(5)
    module = nn.Sequential(
        Conv2d(1, 4, 3, stride=2, padding="same"),
        MinMax(),
        nn.Conv2d(4, 6, 2, padding=1, groups=2, dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8),
        MinMax(),
        nn.Linear(8, 3),
    )
    return GloRoNet(module.to(dtype), 0.01, (1, 5, 5)).eval()


def small_split() -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12, 1, 5, 5), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, 3, (12,), generator=generator))


def certificate_of(net: GloRoNet, executed: bool = True, method: str = "torus") -> CertificateFile:
    split = small_split()
    net.freeze(method)
    evaluation = evaluate(net, split, executed=executed)
    return CertificateFile.of(net, evaluation, split, epsilon=0.01, data="random", part="test")
