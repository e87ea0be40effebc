"""The audit: what it checks, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gloro_fast.audit.bounds import OtherProof, check_differences, check_layers, check_product
from gloro_fast.audit.layers import Layer, describe_modules, read_layers, split_head
from gloro_fast.audit.samples import RealRadii, check_samples, check_summary
from gloro_fast.files.certificate_record import CertificateRecord, split_digest, weights_digest

if TYPE_CHECKING:
    from torch import nn

    from gloro_fast.data import Split


def audit(
    certificate: CertificateRecord,
    module: nn.Module,
    split: Split,
    otherwise: OtherProof | None = None,
    *,
    found: RealRadii | None = None,
) -> Iterator[str]:
    """Check what ``certificate`` says against the classifier and the data; see :func:`stated` for what is left.

    Args:
        certificate: the file; that it matches its checksum has been checked in reading it.
        module: the classifier f, on the CPU, in evaluation mode, float32 or float64.
        split: images and labels.
        otherwise: asked about a bound where the layer's matrix is too large for a proof here; by default such a bound
            is not confirmed.
        found: to note in how far the recorded radii are above those of the net itself.

    Yields:
        One line for everything that is wrong; none if the certificate holds.

    Raises:
        ArchitectureError: the module has a layer that the audit does not know; names it.
    """
    # Of other weights or images, everything else would differ too.
    wrong = [*_check_identity(certificate, module, split)]
    if not wrong:
        layers = read_layers(module, tuple(certificate.input_shape))
        wrong = [*_check_names(certificate, layers)]
    yield from wrong
    if wrong:
        return
    yield from check_layers(certificate, layers, otherwise)
    yield from check_product(certificate)
    yield from check_differences(certificate, layers[len(certificate.layers) :])
    yield from check_samples(certificate, layers, split, RealRadii() if found is None else found)
    yield from check_summary(certificate)


def stated(certificate: CertificateRecord) -> list[tuple[str, str]]:
    """List what the file says and nothing can check: names and values."""
    methods = ", ".join(sorted({record.method for record in certificate.layers if record.method != "rule"}))
    return [
        ("data set's name", certificate.data),
        ("method", f"{certificate.method}{f' (layers: {methods})' if methods else ''}"),
        ("written by", ", ".join(f"{name} {version}" for name, version in certificate.written_by.items())),
    ]


def _check_identity(certificate: CertificateRecord, module: nn.Module, split: Split) -> Iterator[str]:
    if certificate.weights != weights_digest(module):
        yield f"the weights are not those that were certified: SHA-256 {weights_digest(module)[:16]}... instead of " + (
            f"{certificate.weights[:16]}..."
        )
    if certificate.modules != describe_modules(module):
        yield "the modules of the classifier are not those that were certified"
    if tuple(certificate.input_shape) != tuple(split.images.shape[1:]):
        yield f"images have shape {tuple(split.images.shape[1:])}, those that were certified {certificate.input_shape}"
    if certificate.data_digest != split_digest(split.images, split.labels):
        yield f"the images or labels are not those that were certified ({certificate.data}, {certificate.part} split)"
    elif certificate.labels != split.labels.tolist():
        yield "the labels in the certificate are not those of the data"


def _check_names(certificate: CertificateRecord, layers: list[Layer]) -> Iterator[str]:
    before = [layer.name for layer in split_head(layers)[0]]
    # Margins may also rest on the constant of the whole net.
    if [record.name for record in certificate.layers] not in (before, [layer.name for layer in layers]):
        yield f"the bounds are of layers {[record.name for record in certificate.layers]}, the net has {before}"
    outputs = certificate.logits.shape[1]
    if len(certificate.differences) != outputs * (outputs - 1) // 2:
        yield f"there are {len(certificate.differences)} differences of rows for {outputs} classes"
