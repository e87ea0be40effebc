"""Certificates of one ReLU net by its Lipschitz constant and by the convex relaxation of Wong and Kolter (KW).

    gloro-fast train --recipe mnist-2c2f-relu-ce --data-dir DIR --out RUN
    python -m benchmarks.kw_comparison RUN [--images 100] [--epsilon 0.3]

Prints a row an image, what both certify of them, and seconds. Ours is what ``certify`` says by the bound ``tight``,
whose seconds stand apart, since they are spent once. Theirs is the l2 bound of Wong, Schmidt, Metzen, Kolter, "Scaling
provable adversarial defenses", NeurIPS 2018, without its random projections, as the authors' own package computes it:
convex_adversarial 0.4.4, unchanged. An image is certified there where the lower bound on the margin of the predicted
class is above 0 against every other one. It is computed in float32 and rounded to nearest: no guarantee covers that.

A GloRo net is trained for the one bound and not for the other: of the first 100 test images of MNIST ours certifies 96
and theirs none, by a net of that recipe after 100 epochs in bfloat16, in 0.5 and 34 seconds of one busy core; of the
digits, by one of thirty epochs, ours 73 and theirs 69.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast import GloRoNet
from gloro_fast import nn as layers
from gloro_fast.cli.opened import open_run
from gloro_fast.data import Split
from gloro_fast.errors import ArchitectureError, ConfigError

# Their dual net holds a row for each pixel and each neuron that may be on or off, image by image: with so many, 2C2F on
# 28 x 28 pixels takes 1 GB.
_IMAGES_AT_A_TIME = 5


@dataclass(frozen=True)
class Comparison:
    """What both say of N images.

    Attributes:
        labels: (N,).
        prediction: (N,), the net's.
        radius: (N,), certified by us.
        ours: (N,) bool, certified at epsilon.
        margin: (N,), KW's lower bound on the smallest margin of the predicted class at epsilon.
        bound_seconds: that our bound took.
        our_seconds: that certifying took then.
        their_seconds: that KW took.
    """

    labels: Tensor
    prediction: Tensor
    radius: Tensor
    ours: Tensor
    margin: Tensor
    bound_seconds: float
    our_seconds: float
    their_seconds: float

    @property
    def theirs(self) -> Tensor:
        """(N,) bool, certified by KW at epsilon."""
        return self.margin > 0

    def rows(self) -> list[str]:
        """Write a row an image."""
        columns = zip(self.labels, self.prediction, self.radius, self.ours, self.margin, self.theirs, strict=True)
        text = [
            "| image | label | prediction | radius (ours) | ours | margin (KW) | KW |",
            "|---|---|---|---|---|---|---|",
        ]
        for place, (label, prediction, radius, ours, margin, theirs) in enumerate(columns):
            verdicts = ["certified" if verdict else "-" for verdict in (ours, theirs)]
            numbers = f"{float(radius):.3f} | {verdicts[0]} | {float(margin):+.3f} | {verdicts[1]}"
            text.append(f"| {place} | {int(label)} | {int(prediction)} | {numbers} |")
        return text

    def summary(self) -> list[str]:
        """Count the verdicts, and say what they took."""
        right, count = self.prediction == self.labels, len(self.labels)
        both, neither = self.ours & self.theirs, ~self.ours & ~self.theirs
        return [
            f"{count} images, {int(right.sum())} classified correctly",
            f"VRA: ours {float((self.ours & right).double().mean()):.1%}, "
            f"KW {float((self.theirs & right).double().mean()):.1%}",
            f"certified by both {int(both.sum())}, by us alone {int((self.ours & ~self.theirs).sum())}, "
            f"by KW alone {int((self.theirs & ~self.ours).sum())}, by neither {int(neither.sum())}",
            f"seconds: ours {self.our_seconds:.3f} after {self.bound_seconds:.2f} for the bound, "
            f"KW {self.their_seconds:.2f} ({self.their_seconds / count:.3f} an image)",
        ]


def compare(net: GloRoNet, split: Split, epsilon: float) -> Comparison:
    """Certify every image of ``split`` both ways.

    Args:
        net: a ReLU net of convolutions and dense layers, in evaluation mode.
        split: the images and their labels.
        epsilon: the l2 radius.

    Raises:
        ArchitectureError: KW's package has no dual of a layer; names it.
        ConfigError: the package is not installed.
    """
    plain = plain_layers(net)
    images = split.images.float() / 255 if split.images.dtype == torch.uint8 else split.images
    start = time.perf_counter()
    net.freeze("tight")
    bounded = time.perf_counter()
    certificate = net.certify(images, epsilon=epsilon)
    certified = time.perf_counter()
    margin = kw_margins(plain, images, certificate.prediction, epsilon)
    end = time.perf_counter()
    return Comparison(
        split.labels,
        certificate.prediction,
        certificate.radius,
        certificate.certified,
        margin,
        bounded - start,
        certified - bounded,
        end - certified,
    )


def plain_layers(net: GloRoNet) -> nn.Sequential:
    """Return the classifier as layers of PyTorch that KW's package knows, with the same weights.

    Raises:
        ArchitectureError: it has no dual of a layer, or pads on two sides alike alone; names the layer.
    """
    if not isinstance(net.module, nn.Sequential):
        raise ArchitectureError(f"the classifier is a {type(net.module).__name__}; KW's package needs an nn.Sequential")
    found: list[nn.Module] = []
    x = torch.zeros(1, *net.input_shape)
    for name, layer in net.module.named_children():
        if isinstance(layer, layers.Conv2d) and type(layer) is layers.Conv2d:
            (top, bottom), (left, right) = (
                layer.same_padding(x.shape[2:], layer.weight.shape[2:]) if layer.same else 2 * ((0, 0),)
            )
            if (top, left) != (bottom, right) or (not layer.same and layer.padding != (0, 0)):
                raise ArchitectureError(
                    f"{name} ({layer}) pads its sides differently; KW's package knows no such layer"
                )
            size = layer.kernel_size
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, size, layer.stride, (top, left))  # type: ignore[arg-type]
            plain.load_state_dict(layer.state_dict())
            found.append(plain)
        elif type(layer) in (nn.Linear, nn.ReLU, nn.Flatten):
            found.append(layer)
        else:
            raise ArchitectureError(f"{name} is a {type(layer).__name__}, of which KW's package knows no dual")
        with torch.no_grad():
            x = layer(x)
    return nn.Sequential(*found)


def kw_margins(model: nn.Sequential, images: Tensor, classes: Tensor, epsilon: float) -> Tensor:
    """Return KW's lower bounds on the smallest margin of ``classes`` within ``epsilon`` of each image.

    Args:
        model: of layers that the package knows.
        images: (N, C, H, W).
        classes: (N,).
        epsilon: the l2 radius.

    Returns:
        (N,).

    Raises:
        ConfigError: the package is not installed.
    """
    bounds = _robust_bounds()(model, epsilon, norm_type="l2")
    found = []
    with torch.no_grad():
        batches = (torch.split(tensor, _IMAGES_AT_A_TIME) for tensor in (images, classes))
        for batch, labels in zip(*batches, strict=True):
            # Upper bounds on f_j - f_label, with 0 for the label itself.
            above = bounds(batch, labels).scatter(1, labels[:, None], -torch.inf)
            found.append(-above.amax(1))
    return torch.cat(found)


def _robust_bounds() -> Any:
    try:
        from convex_adversarial import RobustBounds
    except ImportError as error:
        raise ConfigError(
            "KW's bound is convex_adversarial's; pip install --no-deps convex_adversarial==0.4.4"
        ) from error
    return RobustBounds


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of gloro-fast train --activation relu")
    parser.add_argument("--images", type=int, default=100, help="of the test split, from the first on")
    parser.add_argument("--epsilon", type=float, help="the l2 radius; the run's by default")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    opened = open_run(
        given.run, data=None, data_dir=given.data_dir, split="test", method="power", device="cpu", threads=None
    )
    epsilon = opened.epsilon if given.epsilon is None else given.epsilon
    split = opened.split.take(torch.arange(min(given.images, len(opened.split))))
    opened.net.unfreeze()
    found = compare(opened.net, split, epsilon)
    print("\n".join([*found.rows(), "", f"{opened.title}, epsilon {epsilon:g}", *found.summary()]))


if __name__ == "__main__":
    main()
