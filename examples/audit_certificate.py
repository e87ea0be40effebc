"""Write a certificate file, have it audited by other code than made it, and see what becomes of a forged one.

    python examples/audit_certificate.py [--images 50]

Needs SciPy, and scikit-learn for its handwritten digits: pip install scipy scikit-learn. From the command line the same
is ``gloro-fast certify RUN --certificate c.json`` and ``gloro-fast audit c.json --model RUN``.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from gloro_fast import data
from gloro_fast.audit import audit
from gloro_fast.certificate_file import CertificateFile
from gloro_fast.evaluate import evaluate
from gloro_fast.models import pretrained


def main(images: int) -> None:
    """Certify, audit, forge."""
    net = pretrained("digits").freeze()
    test = data.load("digits").test
    split = data.Split(test.images[:images], test.labels[:images])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.json"
        certificate = CertificateFile.of(net, evaluate(net, split), split, epsilon=0.3, data="digits", part="test")
        certificate.write(path)
        print(f"written: VRA {certificate.summary['vra']:.1%} of {images} images, {path.stat().st_size:,} bytes")

        # It names weights and images by their SHA-256, the bound of every layer, and logits and radius of every image.
        # The audit proves the bounds by factorisations of its own, and compares margins in rational numbers.
        read = CertificateFile.read(path)
        differences = list(audit(read, net.module, split))
        print(f"audit: {len(differences)} differences")

        # Whoever rewrites a bound can rewrite the checksum as well, but not what the audit finds.
        smaller = dataclasses.replace(read.layers[0], value=0.9 * read.layers[0].value)
        forged = dataclasses.replace(read, layers=[smaller, *read.layers[1:]])
        print("forged:", next(iter(audit(forged, net.module, split))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    main(parser.parse_args().images)
