"""A training loop of one's own whose steps are replays of a CUDA graph on a GPU, and plain steps on a CPU.

    python examples/graphed_step.py [--epochs 10]

Needs scikit-learn for its handwritten digits: pip install scikit-learn.
"""

import argparse

import torch

from gloro_fast import GloRoNet, architectures, data
from gloro_fast.losses import TradesLoss
from gloro_fast.train import GraphedStep


def main(epochs: int) -> None:
    """Train, and print the verified-robust accuracy (VRA)."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    digits = data.load("digits")
    module = architectures.build("2C2F", input_shape=digits.input_shape, num_classes=10)
    net = GloRoNet(module, epsilon=0.3, input_shape=digits.input_shape).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    criterion = TradesLoss(lam=1.0)
    step = GraphedStep(net, optimizer, criterion, max_grad_norm=10.0)

    batches = data.Batches(digits.train, 64, shuffle=True, device=device)
    for epoch in range(epochs):
        net.epsilon = 0.3 * min(1.0, (1 + epoch) / (epochs / 2))  # the graph that was captured follows
        net.train()
        losses = [step(images, labels) for images, labels in batches]  # nothing waits for the GPU here
        scheduler.step()
        print(f"epoch {epoch + 1}: loss {torch.stack(losses).mean():.4f}")

    certificate = net.eval().certify(data.to_float(digits.test.images).to(device))
    right = certificate.prediction.cpu() == digits.test.labels
    print(f"VRA at 0.3: {(certificate.certified.cpu() & right).float().mean():.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
