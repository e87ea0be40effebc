"""Train a GloRo net with an ordinary PyTorch loop, certify the test images, save the net and load it again.

    python examples/train_by_hand.py [--epochs 20]

Needs scikit-learn for its handwritten digits: pip install scikit-learn.
"""

import argparse
import tempfile

import torch

from gloro_fast import GloRoNet, architectures, data
from gloro_fast.losses import TradesLoss


def main(epochs: int) -> None:
    """Train, certify, save and load."""
    torch.manual_seed(0)
    digits = data.load("digits")

    # Any nn.Module would do; this one is the paper's small net. Epsilon is the l2 radius to certify, pixels in [0, 1].
    module = architectures.build("2C2F", input_shape=digits.input_shape, num_classes=10)
    net = GloRoNet(module, epsilon=0.3, input_shape=digits.input_shape)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    criterion = TradesLoss(lam=1.0)  # cross entropy, and a price on what is not certified

    for epoch in range(epochs):
        net.train()
        correct = verified = 0
        for images, labels in data.Batches(digits.train, 64, shuffle=True):
            optimizer.zero_grad()
            loss = net(images, labels, criterion)  # logits, bottom and loss in one pass
            loss.backward()
            optimizer.step()
            correct += int(net.batch_statistics.correct)
            verified += int(net.batch_statistics.verified)
        print(f"epoch {epoch + 1}: clean {correct / len(digits.train):.1%}, VRA {verified / len(digits.train):.1%}")

    # In evaluation the Lipschitz constant is an upper bound with all rounding included, found once for these weights.
    images, labels = data.to_float(digits.test.images), digits.test.labels
    certificate = net.eval().certify(images)
    vra = (certificate.certified & (certificate.prediction == labels)).double().mean().item()
    print(f"test VRA at 0.3: {vra:.1%} (Lipschitz constant {certificate.lipschitz:.4g}, by {certificate.method})")

    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder, {"vra": vra, "epsilon": 0.3, "method": certificate.method, "data": "digits, test"})
        loaded = GloRoNet.from_pretrained(folder)
    same = torch.equal(loaded.certify(images).radius, certificate.radius)
    print(f"loaded again: {'the same certificates' if same else 'other certificates'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args().epochs)
