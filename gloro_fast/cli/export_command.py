"""``gloro-fast export``: the net of a run with its certificate, as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gloro_fast.cli.files import output_path, writing
from gloro_fast.cli.options import EpsilonOption, MethodOption, RunArgument, choice, positive_epsilon
from gloro_fast.cli.reporting import console, facts

_SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}


def export(
    run: RunArgument,
    format: Annotated[
        str, typer.Option(help="onnx, pt2 (torch.export) or aoti (compiled by AOTInductor for this kind of processor).")
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The file; net.onnx or net.pt2 in RUN by default.", show_default=False)
    ] = None,
    epsilon: EpsilonOption = None,
    method: MethodOption = None,
    executed: Annotated[
        bool,
        typer.Option(
            "--executed/--no-executed",
            help="Subtract an allowance for the rounding of the program that runs the file.",
        ),
    ] = True,
) -> None:
    """Export a net as a program that gives logits, prediction and certified radius without this package.

    Images are floats in [0, 1]. The prediction is the number of classes, bottom, where the radius is not above epsilon.
    """
    from gloro_fast.bounds import DEFAULT_METHOD, check_method
    from gloro_fast.export import export_net
    from gloro_fast.train.trained_net import load_net

    choice("--format", format, tuple(_SUFFIXES))
    suffix = _SUFFIXES[format]
    path = run.expanduser() / f"net{suffix}" if out is None else output_path(out, suffix)
    check_method(method or DEFAULT_METHOD)
    net, _ = load_net(run)
    if epsilon is not None:
        net.epsilon = positive_epsilon(epsilon)
    net.freeze(method or DEFAULT_METHOD)
    with writing(path):
        written = export_net(net, path, format, executed=executed)
    rows = [
        ("net", "x".join(map(str, written.input_shape)) + f" pixels in [0, 1], {written.classes} classes"),
        ("weights", f"sha256 {written.weights}"),
        ("bound", f"K = {written.lipschitz:.6g} by {written.method}"),
        ("epsilon", f"{written.epsilon:.6g}"),
        ("radius holds for", written.arithmetic),
        ("written to", str(path)),
    ]
    console().print(facts(rows, "exported"))
