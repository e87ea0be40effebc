"""Certify a net made with deel-torchlip: by what its layers promise, and by a bound that includes every rounding.

    python examples/certify_torchlip.py [--epochs 10]

Needs deel-torchlip, and scikit-learn for its handwritten digits: pip install deel-torchlip scikit-learn.
"""

import argparse

import torch
from deel import torchlip
from torch import nn

from gloro_fast import GloRoNet, data
from gloro_fast.nn import GroupSort


def main(epochs: int) -> None:
    """Train with torchlip alone, then certify its exported layers."""
    torch.manual_seed(0)
    digits = data.load("digits")
    model = torchlip.Sequential(
        nn.Flatten(),
        torchlip.SpectralLinear(64, 64),
        torchlip.GroupSort2(),
        torchlip.SpectralLinear(64, 64),
        torchlip.GroupSort2(),
        torchlip.SpectralLinear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        losses = []
        for images, labels in data.Batches(digits.train, 64, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(20 * model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}")

    # The export has plain layers with the weights that were applied; its activations become ours, which sort the same.
    images, labels = data.to_float(digits.test.images), digits.test.labels
    plain = model.eval().vanilla_export()
    module = nn.Sequential(*(GroupSort(2) if isinstance(layer, torchlip.GroupSort2) else layer for layer in plain))
    assert torch.allclose(module(images), model(images), atol=1e-5)

    net = GloRoNet(module, epsilon=0.3, input_shape=digits.input_shape).eval()
    certificate = net.certify(images)
    right = certificate.prediction == labels
    # By torchlip's promise each layer is 1-Lipschitz; a margin then moves by at most sqrt(2) times the perturbation.
    top = certificate.logits.topk(2).values
    promised = right & (top[:, 0] - top[:, 1] > 2**0.5 * 0.3)
    print(f"clean {right.double().mean():.1%}")
    print(f"VRA at 0.3 by the promise that every layer is 1-Lipschitz: {promised.double().mean():.1%}")
    print(f"VRA at 0.3 by the bound: {(certificate.certified & right).double().mean():.1%}")
    # The layers keep their promise up to the few iterations that normalize them; the bound says how far.
    for layer in net.bound.layers:
        print(f"  {layer.name}: {layer.value:.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
