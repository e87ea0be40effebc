"""Randomized smoothing beside a GloRo certificate: thousands of forward passes that may err, or one that does not.

    python examples/smoothing.py [--images 50] [--samples 2000]

Needs SciPy, and scikit-learn for its handwritten digits: pip install scipy scikit-learn.
"""

import argparse

from gloro_fast import data
from gloro_fast.evaluate.smoothing import smooth
from gloro_fast.models import pretrained


def main(images: int, samples: int) -> None:
    """Certify the same images in both ways."""
    net = pretrained("digits")
    test = data.load("digits").test
    x, labels = data.to_float(test.images[:images]), test.labels[:images]

    certificate = net.certify(x)
    right = certificate.prediction == labels
    vra = (certificate.certified & right).double().mean().item()
    print(f"GloRo: VRA at {net.epsilon} {vra:.1%}, one forward pass, holds without exception")

    # The classifier below the bottom logit, under Gaussian noise: it predicts what most noisy copies are called. A net
    # that was trained with such noise would do better (--noise of gloro-fast train).
    found = smooth(net, x, labels, noise=0.2, samples=samples)
    print(
        f"smoothed: VRA at {net.epsilon} {found.vra(net.epsilon):.1%}, {samples:,} forward passes an image, each "
        f"certificate wrong with probability {found.alpha}; abstained {found.abstained:.1%}"
    )
    # More samples cannot lift this: noise times the normal quantile of the confidence limit with every copy agreeing.
    print(f"largest radius: {certificate.radius.max():.3f} and {found.radius.max():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    main(arguments.images, arguments.samples)
