"""A training loop of one's own under DistributedDataParallel: each process learns from its part of every batch.

    torchrun --nproc-per-node 2 examples/ddp.py [--epochs 5]

``gloro-fast train`` and ``Trainer`` need nothing of this: they share their batches under torchrun by themselves. Needs
scikit-learn for its handwritten digits: pip install scikit-learn.
"""

import argparse

import torch
from torch.nn.parallel import DistributedDataParallel

from gloro_fast import GloRoNet, architectures, data
from gloro_fast.distributed import joined
from gloro_fast.losses import TradesLoss


def main(epochs: int) -> None:
    """Train, and print the verified-robust accuracy (VRA)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with joined(device) as group:
        torch.manual_seed(0)  # the same order of the images in every process
        digits = data.load("digits")
        module = architectures.build("2C2F", input_shape=digits.input_shape, num_classes=10)
        net = GloRoNet(module, epsilon=0.3, input_shape=digits.input_shape).to(device)
        # The loss goes through forward, which is what DDP wraps; the power iterates are buffers, the same everywhere.
        wrapped = DistributedDataParallel(net) if group.size > 1 else net
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        criterion = TradesLoss(lam=1.0)

        batches = data.Batches(digits.train, 64, shuffle=True, device=device, group=group)
        for epoch in range(epochs):
            net.train()
            total = torch.zeros(1, device=device)
            for images, labels in batches:
                optimizer.zero_grad()
                loss = wrapped(images, labels, criterion)
                loss.backward()
                optimizer.step()
                total += loss.detach()
            mean = group.sum_(total) / (group.size * len(batches))
            if group.is_main:
                print(f"epoch {epoch + 1}: loss {mean.item():.4f}")

        # Each certifies its share of the test images.
        share = group.share(len(digits.test.labels))
        images = data.to_float(digits.test.images[share.start : share.stop]).to(device)
        certificate = net.eval().certify(images)
        right = certificate.prediction.cpu() == digits.test.labels[share.start : share.stop]
        flags = group.gather(certificate.certified.cpu() & right)
        if flags is not None:
            print(f"VRA at 0.3: {flags.float().mean():.2%}, {group.size} processes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    main(parser.parse_args().epochs)
