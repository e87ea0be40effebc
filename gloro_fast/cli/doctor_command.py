"""``gloro-fast doctor``: whether the kernels compute on this machine what they must."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gloro_fast.cli.reporting import console, table

if TYPE_CHECKING:
    from gloro_fast.doctor import Finding

_KERNEL_IS_WRONG = 1


def doctor(
    device: Annotated[str, typer.Option(help="Device to examine: cpu, cuda, cuda:1, ...; all of them if empty.")] = "",
) -> None:
    """Check every kernel against the float64 reference on every device: random and edge shapes, all types.

    Exit code 1 if one is wrong. `gloro_fast.doctor.examine(device)` does the same within a program, and there
    switches off, for the rest of the process, what is wrong on a GPU.
    """
    import torch

    from gloro_fast.doctor import examine

    out = console()
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if not gpus and not device:
        out.print("There is no GPU that torch can use: only the ops of the CPU are checked.")
    findings = [finding for name in ([device] if device else ["cpu", *gpus]) for finding in examine(name)]
    rows = [
        (finding.op, finding.device, _verdict(finding), str(finding.cases), f"{finding.seconds:.1f}")
        for finding in findings
    ]
    columns = ("op", "device", "verdict", "cases", "seconds")
    out.print(table(columns, rows, title="kernels", numbers=("cases", "seconds")))
    if any(finding.failure is not None for finding in findings):
        raise typer.Exit(_KERNEL_IS_WRONG)


def _verdict(finding: Finding) -> str:
    if finding.reference is not None:
        return f"PyTorch reference: {finding.reference}"
    return "right" if finding.failure is None else f"WRONG: {finding.failure}"
