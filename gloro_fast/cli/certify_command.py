"""``gloro-fast certify``: prediction and certified radius of every image, to a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gloro_fast.cli.files import output_path, to_json, writing
from gloro_fast.cli.grouped import shared
from gloro_fast.cli.options import (
    OPENING,
    RELAXING,
    BatchSizeOption,
    EpsilonOption,
    ExecutedOption,
    RunArgument,
    asks_relaxed,
    positive_epsilon,
    with_options,
)
from gloro_fast.cli.relaxing import chosen_relaxation, relaxation_text
from gloro_fast.cli.reporting import console, facts, percent
from gloro_fast.errors import ConfigError
from gloro_fast.files.atomic import growing, partial, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from gloro_fast.cli.evaluated import Batches, EvaluatedRun
    from gloro_fast.cli.opened import OpenRun
    from gloro_fast.evaluate import Evaluation
    from gloro_fast.evaluate.accuracy import AnyCertificate

# What a CSV has in every row; the last where the guarantee is relaxed.
_HOW = ("epsilon", "method", "executed", "guarantee")


@shared
@with_options({**RELAXING, **OPENING})
def certify(
    run: RunArgument,
    epsilon: EpsilonOption = None,
    executed: ExecutedOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .csv or .json file; RUN/certificates.csv or relaxed-certificates.csv by default.",
            show_default=False,
        ),
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

    With --top-k or --affinity the guarantee is relaxed (Leino and Fredrikson 2021): instead of a prediction there is a
    set of classes, the largest that is certified at epsilon to stay the likeliest, else the most certain one, and its
    radius.

    A CSV grows batch by batch, under its name with ".partial" behind it: what is stopped or killed leaves the rows that
    it has. Whole, it takes its name.
    """
    from gloro_fast.cli.evaluated import evaluate_run

    relaxed = asks_relaxed(opening)
    name = "relaxed-certificates.csv" if relaxed else "certificates.csv"
    path = run.expanduser() / name if out is None else output_path(out, ".csv", ".json")
    if certificate is not None:
        certificate = output_path(certificate, ".json", option="--certificate")
        if relaxed:
            raise ConfigError(
                "--certificate states ordinary radii, which audit checks; leave out --top-k and --affinity"
            )
    if epsilon is not None:
        positive_epsilon(epsilon)
    as_json = path.suffix.lower() == ".json"

    def passing(opened: OpenRun, batches: Batches) -> Batches:
        if as_json:
            return batches
        chosen = chosen_relaxation(opening["top_k"], opening["affinity"], opened.class_names)
        guarantee = "" if chosen is None else relaxation_text(chosen, opened.class_names)
        return _written(path, epsilon or opened.epsilon, opened, batches, guarantee)

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


def _written(path: Path, epsilon: float, opened: OpenRun, batches: Batches, guarantee: str) -> Batches:
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
                add(_csv(written, labels, certificate, epsilon, guarantee))
                written += len(labels)
                if signals.received is not None and written < total:
                    raise typer.Exit(128 + signals.received)
                yield labels, certificate
    except BaseException:
        if written:
            typer.echo(f"warning: stopped after {written:,} of {total:,} images; they are in {partial(path)}", err=True)
        raise


def _csv(first: int, labels: Tensor, certificate: AnyCertificate, epsilon: float, guarantee: str) -> str:
    """Return a row for each image of a batch, the first of which has the number ``first``, and the header before 0."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    how = [epsilon, certificate.method, str(certificate.executed).lower(), *([guarantee] if guarantee else [])]
    if first == 0:
        writer.writerow([*_fields(bool(guarantee)), *_HOW[: len(how)]])
    for index, (label, found, certified, radius) in enumerate(_samples(labels, certificate, epsilon), start=first):
        shown = " ".join(map(str, found)) if isinstance(found, list) else found
        writer.writerow([index, label, shown, str(certified).lower(), radius, *how])
    return text.getvalue()


def _fields(relaxed: bool) -> tuple[str, ...]:
    return ("index", "label", "set" if relaxed else "prediction", "certified", "radius")


def _samples(
    labels: Tensor, certificate: AnyCertificate | Evaluation, epsilon: float
) -> Iterator[tuple[int, int | list[int], bool, float]]:
    """Go through the images: label, prediction or set of classes, whether it is certified at epsilon, its radius."""
    from gloro_fast.evaluate import RelaxedCertificate

    found: list[int] | list[list[int]]
    if isinstance(certificate, RelaxedCertificate):
        size, radius = certificate.sets(epsilon)
        found = [classes[:k] for classes, k in zip(certificate.classes.tolist(), size.tolist(), strict=True)]
    else:
        found, radius = certificate.prediction.tolist(), certificate.radius
    return zip(labels.tolist(), found, (radius > epsilon).tolist(), radius.tolist(), strict=True)


def _json(evaluated: EvaluatedRun, epsilon: float) -> str:
    evaluation = evaluated.evaluation
    certificate = evaluation if evaluation.relaxed is None else evaluation.relaxed
    samples = enumerate(_samples(evaluation.labels, certificate, epsilon))
    fields = _fields(evaluation.relaxed is not None)
    content = {
        **evaluated.to_dict(),
        "epsilon": epsilon,
        **evaluated.vra_to_dict(epsilon),
        "samples": [dict(zip(fields, (index, *sample), strict=True)) for index, sample in samples],
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
    certified = (evaluation if evaluation.relaxed is None else evaluation.relaxed).radius > epsilon
    lower, median, upper = evaluation.radius_quartiles()
    rows = [
        *evaluated.facts(),
        (evaluation.accuracy_name, percent(evaluation.clean_accuracy)),
        (f"certified at epsilon {epsilon:.6g}", f"{int(certified.sum()):,} of {len(certified):,}"),
        (f"{evaluation.vra_name} at epsilon {epsilon:.6g}", evaluated.vra(epsilon)),
        ("certified radius", f"median {median:.4g}, quartiles {lower:.4g} to {upper:.4g} (0 where wrong)"),
        ("written to", str(path)),
        ("certificate", "" if certificate is None else str(certificate)),
    ]
    console().print(facts(rows, "certificates"))
