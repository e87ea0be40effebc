"""Export a trained net to ONNX, and certify with ONNX Runtime: the same radii, less an allowance for rounding.

    python examples/onnx_radii.py [--epochs 5]

Needs scikit-learn for its handwritten digits, and what writes and runs ONNX:
pip install scikit-learn onnx onnxscript onnxruntime.
"""

import argparse
import json
import tempfile
from pathlib import Path

import onnxruntime
import torch

from gloro_fast import GloRoNet, architectures, data
from gloro_fast.export import METADATA_KEY, export_net
from gloro_fast.losses import TradesLoss


def main(epochs: int) -> None:
    """Train, export, and compare the radii of the test images."""
    torch.manual_seed(0)
    digits = data.load("digits")
    module = architectures.build("2C2F", input_shape=digits.input_shape, num_classes=10)
    net = GloRoNet(module, epsilon=0.2, input_shape=digits.input_shape)
    optimizer, criterion = torch.optim.Adam(net.parameters(), lr=1e-3), TradesLoss(lam=1.0)
    for _ in range(epochs):
        for images, labels in data.Batches(digits.train, 64, shuffle=True):
            optimizer.zero_grad()
            net(images, labels, criterion).backward()
            optimizer.step()
    net.eval().freeze()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        export_net(net, path, "onnx")
        session = onnxruntime.InferenceSession(path)  # from here on nothing of gloro_fast is needed
    images = data.to_float(digits.test.images)
    _, prediction, radius = session.run(None, {"images": images.numpy()})
    says = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])

    ours = net.certify(images)
    certified = int((prediction < says["classes"]).sum())
    less = float((ours.radius - torch.from_numpy(radius)).max())
    print(f"radii hold for {says['arithmetic']}")
    print(f"certified at {says['epsilon']:g}: {certified} of {len(images)} by ONNX, {int(ours.certified.sum())} by us")
    print(f"median radius {ours.radius.median():.4f}; in ONNX it is smaller by at most {less:.1e}, and never larger")
    assert (torch.from_numpy(radius) <= ours.radius).all()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    main(parser.parse_args().epochs)
