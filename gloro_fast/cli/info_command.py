"""``gloro-fast info``: what is installed, what runs where, and why."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from gloro_fast.cli.reporting import console, facts, table

_EXTRAS = {
    "scikit-learn": "the digits",
    "adversarial-robustness-toolbox": "attacks",
    "tensorboard": "train --tensorboard",
    "wandb": "train --log wandb",
    "mlflow": "train --log mlflow",
    "h5py": "import-keras",
    "scipy": "audit",
    "torchvision": "train --download",
}


def info(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, to show its net as well.", metavar="[RUN]", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show versions, devices, which kernels are active for which op and why, data sets and bound methods.

    Of a run: its net, and from which constants its margins are made.
    """
    from gloro_fast.cli.files import to_json

    known = _collect()
    if run is not None:
        known["net"] = _net(run)
    if as_json:
        typer.echo(to_json(known), nl=False)
        return
    out = console()
    out.print(facts(_lines(known["versions"]), "versions"))
    out.print(facts(_lines(known["devices"]), "devices"))
    out.print(facts(_lines(known["extension"]), "compiled extension"))
    kernels = [(row["op"], row["device"], row["runs"], row["why"]) for row in known["kernels"]]
    out.print(table(("op", "device", "runs as", "why"), kernels, title="kernels"))
    out.print(facts([("data sets", ", ".join(known["data_sets"])), *_lines(known["bound_methods"])], "data and bounds"))
    out.print(facts(_lines(known["optional"]), "optional packages"))
    if run is not None:
        out.print(facts(_lines(known["net"]), f"net of {run}"))


def _collect() -> dict[str, Any]:
    import torch

    from gloro_fast import data
    from gloro_fast._version import __version__
    from gloro_fast.cli.kernels import active_kernels, bound_kinds
    from gloro_fast.native import extension

    devices = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return {
        "versions": {"gloro_fast": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "devices": devices,
        "extension": extension.facts(),
        "kernels": active_kernels(),
        "data_sets": list(data.NAMES),
        "bound_methods": bound_kinds(),
        "optional": {name: _installed(name, purpose) for name, purpose in _EXTRAS.items()},
    }


def _net(run: Path) -> dict[str, Any]:
    from gloro_fast.train.trained_net import load_net

    net, config = load_net(run)
    return {
        "recipe": config.recipe.name,
        "architecture": config.recipe.architecture,
        "input_shape": list(net.input_shape),
        "classes": net.num_classes,
        "parameters": sum(parameter.numel() for parameter in net.module.parameters()),
        "epsilon": net.epsilon,
        "margins": net.margin_form,
    }


def _installed(name: str, purpose: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed; needed for {purpose}"


def _lines(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _readable(value)) for name, value in values.items()]


def _readable(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return ""
        case list():
            return ", ".join(map(str, value))
    return str(value)
