"""Randomized smoothing (Cohen, Rosenfeld, Kolter 2019): certificates by sampling, each wrong with probability alpha."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gloro_fast.distributed import ALONE, Group
from gloro_fast.errors import ConfigError, DataError
from gloro_fast.graph.plan import evaluation_mode
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.progress import tracked

ABSTAIN = -1


@dataclass(frozen=True)
class Smoothed:
    """What the smoothed classifier says of N images, and how sure that is.

    Attributes:
        labels: (N,) int64.
        prediction: (N,) int64, the class that it predicts, or ``ABSTAIN``.
        certified_class: (N,) int64, the class that ``radius`` is for, or ``ABSTAIN``.
        radius: (N,) float64, l2 radius in units of the input; 0 where it abstains.
        noise: standard deviation of the noise.
        samples: noisy copies an image.
        alpha: probability that a prediction or a radius is wrong, each by itself.
        seconds: duration.
    """

    labels: Tensor
    prediction: Tensor
    certified_class: Tensor
    radius: Tensor
    noise: float
    samples: int
    alpha: float
    seconds: float

    @property
    def clean_accuracy(self) -> float:
        """Share of images predicted correctly, without abstaining, in [0, 1]."""
        return float((self.prediction == self.labels).double().mean())

    @property
    def abstained(self) -> float:
        """Share of images without a prediction."""
        return float((self.prediction == ABSTAIN).double().mean())

    @property
    def seconds_per_image(self) -> float:
        """Cost of prediction and certificate of one image."""
        return self.seconds / len(self.labels)

    def vra(self, epsilon: float) -> float:
        """Return the share of images certified at ``epsilon`` for their own label: a stochastic VRA."""
        return float(((self.certified_class == self.labels) & (self.radius > epsilon)).double().mean())


def smooth(
    net: GloRoNet,
    images: Tensor,
    labels: Tensor,
    noise: float,
    *,
    samples: int = 10_000,
    selection: int = 100,
    alpha: float = 0.001,
    batch_size: int = 1_000,
    seed: int = 0,
    group: Group = ALONE,
) -> Smoothed:
    """Predict and certify with the smoothed classifier g(x) = argmax_c P(f(x + noise) = c).

    Prediction: the most frequent of ``samples`` noisy copies, unless a two-sided binomial test cannot tell it from the
    second at ``alpha``. Certificate: the class is chosen by ``selection`` copies of its own; with p the exact
    (Clopper-Pearson) lower confidence limit of its share among the ``samples``, at ``alpha``, the radius is
    noise * Phi^-1(p) if p > 1/2, and otherwise it abstains.

    Args:
        net: the net; only f = ``net.module`` counts, its bottom plays no part.
        images: (N, *input_shape) float32.
        labels: (N,) int64.
        noise: standard deviation of the Gaussian noise, > 0: that f was trained with.
        samples: copies an image for prediction and certificate, >= 1.
        selection: copies to choose the class to certify, >= 1.
        alpha: probability of error, in (0, 1).
        batch_size: copies at a time.
        seed: of the noise; each image has its own, drawn from it.
        group: who shares the work: each process certifies its share of the images, and all are told of every one.

    Raises:
        ConfigError: SciPy is not installed, or an argument cannot be used.
        DataError: images of another shape or type than the net's.
    """
    _check(net, images, noise, alpha, samples=samples, selection=selection, batch_size=batch_size)
    try:
        from scipy.stats import binomtest, norm
    except ImportError as error:
        raise ConfigError(
            f"randomized smoothing needs SciPy, which cannot be imported ({error}); install it with: pip install scipy"
        ) from error
    begun = time.monotonic()
    seeds = torch.randint(2**62, (len(images),), generator=torch.Generator().manual_seed(seed)).tolist()
    generator, share = torch.Generator(), group.share(len(images))
    predictions, classes = torch.zeros(2, len(images), dtype=torch.int64)
    radii = torch.zeros(len(images), dtype=torch.float64)
    with evaluation_mode(net.module), torch.no_grad():
        for index in tracked(share, len(share), "sampling noise"):
            image = images[index]
            generator.manual_seed(seeds[index])
            chosen = int(_counts(net.module, image, noise, selection, batch_size, net.num_classes, generator).argmax())
            counts = _counts(net.module, image, noise, samples, batch_size, net.num_classes, generator)
            (first, second), places = (top.tolist() for top in counts.topk(2))
            told_apart = first > second and binomtest(first, first + second, 0.5).pvalue <= alpha
            predictions[index] = places[0] if told_apart else ABSTAIN
            test = binomtest(int(counts[chosen]), samples, alternative="greater")
            lowest = float(test.proportion_ci(confidence_level=1 - alpha, method="exact").low)
            classes[index] = chosen if lowest > 0.5 else ABSTAIN
            radii[index] = noise * float(norm.ppf(lowest)) if lowest > 0.5 else 0.0
    return Smoothed(
        labels=labels,
        prediction=group.sum_(predictions),
        certified_class=group.sum_(classes),
        radius=group.sum_(radii),
        noise=noise,
        samples=samples,
        alpha=alpha,
        seconds=time.monotonic() - begun,
    )


def _counts(
    module: nn.Module,
    image: Tensor,
    noise: float,
    samples: int,
    batch_size: int,
    classes: int,
    generator: torch.Generator,
) -> Tensor:
    """Count how often f predicts each class, (m,) int64, on noisy copies of one image."""
    counts = torch.zeros(classes, dtype=torch.int64)
    device = next(module.parameters()).device
    for start in range(0, samples, batch_size):
        copies = min(batch_size, samples - start)
        draws = torch.randn(copies, *image.shape, generator=generator)
        found = module((image + noise * draws).to(device)).argmax(dim=1)
        counts += torch.bincount(found.cpu(), minlength=classes)
    return counts


def _check(net: GloRoNet, images: Tensor, noise: float, alpha: float, **counts: int) -> None:
    if not (math.isfinite(noise) and noise > 0):
        raise ConfigError(f"noise is {noise:g}; its deviation must be a number greater than 0")
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha:g}; the probability of error must lie between 0 and 1")
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}; smoothing needs at least 1")
    if images.dtype != torch.float32 or tuple(images.shape[1:]) != net.input_shape or len(images) == 0:
        raise DataError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; give at least one float32 image of the net's "
            f"{net.input_shape}"
        )
