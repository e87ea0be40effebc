"""``gloro-fast audit``: whether a certificate file holds, found out in another way than the one that made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gloro_fast.cli.options import DataDirOption, DataOption, ThreadsOption, use_threads
from gloro_fast.cli.reporting import console, facts, percent
from gloro_fast.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from gloro_fast.files.certificate_record import LayerRecord

_DOES_NOT_HOLD = 1
_METHODS = ("cholesky", "torus", "trivial")


def audit(
    file: Annotated[Path, typer.Argument(help="What certify --certificate wrote.", metavar="FILE")],
    model: Annotated[
        Path,
        typer.Option(
            "--model", help="The run folder, or its model.safetensors.", metavar="RUN|FILE", show_default=False
        ),
    ],
    data: DataOption = None,
    data_dir: DataDirOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Check a certificate file against the weights and the data that it names, by an independent, slow path.

    Layers are unrolled into matrices and their bounds proven by factorisations, exactly where they are small; products,
    distances, margins and radii are compared in rational numbers; logits are evaluated anew with error bounds. Every
    difference is one line; if there is any, the exit code is 1.
    """
    try:
        from gloro_fast.audit import RealRadii, stated
        from gloro_fast.audit import audit as differences
    except ImportError as error:
        raise ConfigError(f"audit needs SciPy ({error}); install it with: pip install scipy") from None
    from gloro_fast.cli.opened import load_run_data
    from gloro_fast.files.certificate_record import CertificateRecord
    from gloro_fast.train.trained_net import load_net

    use_threads(threads)
    certificate = CertificateRecord.read(file.expanduser())
    net, config = load_net(_run_folder(model.expanduser()))
    data_set = load_run_data(config, data, data_dir)
    split = data_set.train if certificate.part == "train" else data_set.test
    wrong, found = 0, RealRadii()
    for line in differences(certificate, net.module, split, _bounded_by_another, found=found):
        typer.echo(f"wrong: {line}", err=True)
        wrong += 1
    if wrong:
        typer.echo(f"{file} does not hold: {wrong} differences", err=True)
        raise typer.Exit(_DOES_NOT_HOLD)
    digests = f"weights {certificate.weights[:16]}..., images and labels {certificate.data_digest[:16]}..."
    above = f"at most {found.above:.2g} above the net's in exact arithmetic" if found.above else "none above the net's"
    rows = [
        ("SHA-256", digests),
        ("images", f"{len(certificate.labels):,}, the {certificate.part} split of {data_set.name}"),
        ("Lipschitz constant", f"{certificate.lipschitz:.6g}, every layer proven"),
        ("radii of the logits", above),
        ("rounding of the forward pass", "covered" if certificate.executed else "not covered"),
        (f"VRA at epsilon {certificate.epsilon:.6g}", percent(certificate.summary["vra"])),
    ]
    out = console()
    out.print(facts(rows, f"{file} holds: verified"))
    out.print(facts(stated(certificate), "stated by the file, not verified"))


def _bounded_by_another(record: LayerRecord, layer: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Return whether another rigorous method than the recorded one bounds a layer by no more."""
    from gloro_fast.bounds import METHODS
    from gloro_fast.rules.registry import LinearMap, lipschitz_rule

    rule = lipschitz_rule(record.name, layer, input_shape)
    assert isinstance(rule, LinearMap)
    others = (METHODS[method](record.name, rule) for method in _METHODS if method != record.method)
    return any(other.value <= record.value for other in others)


def _run_folder(path: Path) -> Path:
    """Return the run folder that ``path`` is or lies in."""
    from gloro_fast.train.run_folder import RunFolder

    return path.parent if path.name == RunFolder(path.parent).model.name else path
