"""``gloro-fast certify``: prediction and certified radius of every image, to a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.grouped import shared
from gloro_fast.cli.options import (
    OPENING,
    BatchSizeOption,
    EpsilonOption,
    ExecutedOption,
    RunArgument,
    positive_epsilon,
    with_options,
)
from gloro_fast.cli.reporting import console, facts, percent
from gloro_fast.files.atomic import growing, partial, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from gloro_fast.cli.evaluated import Batches, EvaluatedRun
    from gloro_fast.cli.opened import OpenRun
    from gloro_fast.net.certificate import Certificate

_FIELDS = ("index", "label", "prediction", "certified", "radius")
_HEADER = ",".join((*_FIELDS, "epsilon", "method", "executed")) + "\n"


@shared
@with_options(OPENING)
def certify(
    run: RunArgument,
    epsilon: EpsilonOption = None,
    executed: ExecutedOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A .csv or .json file; RUN/certificates.csv by default.", show_default=False),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="A .json file for the whole certificate, which gloro-fast audit checks.", show_default=False),
    ] = None,
    batch_size: BatchSizeOption = 512,
    **opening: Any,
) -> None:
    """Certify every image of a data set.

    The file has for each image, in the order of the data: index, label, prediction, whether it is certified at
    epsilon, and its certified l2 radius. A CSV names epsilon, the method of the bound and whether rounding is covered
    in every row, a JSON file once, beside the summary. A radius without limit is "inf" in both.

    A CSV grows batch by batch, under its name with ".partial" behind it: what is stopped or killed leaves the rows that
    it has. Whole, it takes its name.
    """
    from gloro_fast.cli.evaluated import evaluate_run

    path = run.expanduser() / "certificates.csv" if out is None else output_path(out, ".csv", ".json")
    if certificate is not None:
        certificate = output_path(certificate, ".json", option="--certificate")
    if epsilon is not None:
        positive_epsilon(epsilon)
    as_json = path.suffix.lower() == ".json"

    def passing(opened: OpenRun, batches: Batches) -> Batches:
        return batches if as_json else _written(path, epsilon or opened.epsilon, opened, batches)

    evaluated = evaluate_run(
        run,
        executed=executed,
        batch_size=batch_size,
        **opening,
        keep_logits=certificate is not None,
        passing=passing,
    )
    epsilon = epsilon or evaluated.epsilon
    if as_json:
        with writing(path):
            write_text(path, _json(evaluated, epsilon))
    if certificate is not None:
        _write_certificate(evaluated, epsilon, certificate)
    _print_summary(evaluated, epsilon, path, certificate)


def _written(path: Path, epsilon: float, opened: OpenRun, batches: Batches) -> Batches:
    """Write the rows of each batch that passes.

    Raises:
        Exit: SIGINT or SIGTERM came, after the batch that it came in; what is written is said.
        ConfigError: the file cannot be written.
    """
    from gloro_fast.train.signals import StopSignals

    written, total = 0, len(opened.split)
    try:
        with StopSignals() as signals, writing(path), growing(path) as add:
            for labels, certificate in batches:
                text = _csv(written, labels, certificate, epsilon)
                add(text if written else _HEADER + text)
                written += len(labels)
                if signals.received is not None and written < total:
                    raise typer.Exit(128 + signals.received)
                yield labels, certificate
    except BaseException:
        if written:
            typer.echo(f"warning: stopped after {written:,} of {total:,} images; they are in {partial(path)}", err=True)
        raise


def _csv(first: int, labels: Tensor, certificate: Certificate, epsilon: float) -> str:
    """Return a row for each image of a batch, the first of which has the number ``first``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    how = epsilon, certificate.method, str(certificate.executed).lower()
    radius = certificate.radius
    columns = (labels, certificate.prediction, radius > epsilon, radius)
    for index, row in enumerate(zip(*(column.tolist() for column in columns), strict=True), start=first):
        label, prediction, certified, distance = row
        writer.writerow([index, label, prediction, str(certified).lower(), distance, *how])
    return text.getvalue()


def _json(evaluated: EvaluatedRun, epsilon: float) -> str:
    evaluation = evaluated.evaluation
    columns = (evaluation.labels, evaluation.prediction, evaluation.radius > epsilon, evaluation.radius)
    samples = enumerate(zip(*(column.tolist() for column in columns), strict=True))
    content = {
        **evaluated.to_dict(),
        "epsilon": epsilon,
        "vra": evaluation.vra(epsilon),
        "real_vra": evaluation.real_vra(epsilon),
        "samples": [dict(zip(_FIELDS, (index, *sample), strict=True)) for index, sample in samples],
    }
    return to_json(content)


def _write_certificate(evaluated: EvaluatedRun, epsilon: float, path: Path) -> None:
    from gloro_fast.certificate_file import CertificateFile

    certificate = CertificateFile.of(
        evaluated.net,
        evaluated.evaluation,
        evaluated.split,
        epsilon=epsilon,
        data=evaluated.data,
        part=evaluated.split_name,
    )
    with writing(path):
        certificate.write(path)


def _print_summary(evaluated: EvaluatedRun, epsilon: float, path: Path, certificate: Path | None) -> None:
    evaluation = evaluated.evaluation
    certified = evaluation.radius > epsilon
    lower, median, upper = evaluation.radius_quartiles()
    rows = [
        *evaluated.facts(),
        ("clean accuracy", percent(evaluation.clean_accuracy)),
        (f"certified at epsilon {epsilon:.6g}", f"{int(certified.sum()):,} of {len(certified):,}"),
        (f"VRA at epsilon {epsilon:.6g}", evaluated.vra(epsilon)),
        ("certified radius", f"median {median:.4g}, quartiles {lower:.4g} to {upper:.4g} (0 where wrong)"),
        ("written to", str(path)),
        ("certificate", "" if certificate is None else str(certificate)),
    ]
    console().print(facts(rows, "certificates"))
