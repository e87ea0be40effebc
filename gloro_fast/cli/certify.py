"""``gloro-fast certify``: prediction and certified radius of every image, to a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gloro_fast.atomic import write_text
from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.options import (
    BatchSizeOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    EpsilonOption,
    ExecutedOption,
    MethodOption,
    RunArgument,
    SplitOption,
    ThreadsOption,
    positive_epsilon,
)
from gloro_fast.cli.reporting import console, facts, percent

if TYPE_CHECKING:
    from gloro_fast.cli.evaluation import EvaluatedRun

_FIELDS = ("index", "label", "prediction", "certified", "radius")


def certify(
    run: RunArgument,
    data: DataOption = None,
    data_dir: DataDirOption = None,
    split: SplitOption = "test",
    epsilon: EpsilonOption = None,
    method: MethodOption = None,
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
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Certify every image of a data set.

    The file has for each image, in the order of the data: index, label, prediction, whether it is certified at
    epsilon, and its certified l2 radius. A CSV names epsilon, the method of the bound and whether rounding is covered
    in every row, a JSON file once, beside the summary. A radius without limit is "inf" in both.
    """
    from gloro_fast.cli.evaluation import evaluate_run

    path = run.expanduser() / "certificates.csv" if out is None else output_path(out, ".csv", ".json")
    if certificate is not None:
        certificate = output_path(certificate, ".json", option="--certificate")
    if epsilon is not None:
        positive_epsilon(epsilon)
    evaluated = evaluate_run(
        run,
        data=data,
        data_dir=data_dir,
        split=split,
        method=method,
        executed=executed,
        batch_size=batch_size,
        device=device,
        threads=threads,
    )
    epsilon = evaluated.epsilon if epsilon is None else epsilon
    content = _json if path.suffix.lower() == ".json" else _csv
    with writing(path):
        write_text(path, content(evaluated, epsilon))
    if certificate is not None:
        _write_certificate(evaluated, epsilon, certificate)
    _print_summary(evaluated, epsilon, path, certificate)


def _samples(evaluated: EvaluatedRun, epsilon: float) -> Iterator[tuple[int, int, int, bool, float]]:
    """Give index, label, prediction, certified and radius of each image."""
    evaluation = evaluated.evaluation
    columns = (evaluation.labels, evaluation.prediction, evaluation.radius > epsilon, evaluation.radius)
    for index, sample in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        yield (index, *sample)


def _csv(evaluated: EvaluatedRun, epsilon: float) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIELDS, "epsilon", "method", "executed"])
    for index, label, prediction, certified, radius in _samples(evaluated, epsilon):
        row = [index, label, prediction, str(certified).lower(), radius]
        writer.writerow([*row, epsilon, evaluated.evaluation.method, str(evaluated.evaluation.executed).lower()])
    return text.getvalue()


def _json(evaluated: EvaluatedRun, epsilon: float) -> str:
    content = {
        **evaluated.to_dict(),
        "epsilon": epsilon,
        "vra": evaluated.evaluation.vra(epsilon),
        "real_vra": evaluated.evaluation.real_vra(epsilon),
        "samples": [dict(zip(_FIELDS, sample, strict=True)) for sample in _samples(evaluated, epsilon)],
    }
    return to_json(content)


def _write_certificate(evaluated: EvaluatedRun, epsilon: float, path: Path) -> None:
    from gloro_fast.certificate_file import CertificateFile

    certificate = CertificateFile.of(
        evaluated.net,
        evaluated.evaluation,
        evaluated.images,
        epsilon=epsilon,
        data=evaluated.data,
        part=evaluated.split,
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
