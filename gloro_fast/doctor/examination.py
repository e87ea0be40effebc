"""Running the checks: one finding an op and device, and the reference in place of what failed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gloro_fast.doctor.compiling import compile_kernels
from gloro_fast.native import dispatch, extension
from gloro_fast.progress import Progress

Check = Callable[[torch.device], Iterator[str | None]]
"""Tries an op on a device, one case after the other: yields None where it is right, else what was wrong in one line."""

_CHECKS: dict[str, Check] = {}


@dataclass(frozen=True)
class Finding:
    """What came of one op on one device.

    Attributes:
        op: its name in ``gloro_fast.ops``.
        device: where it ran.
        cases: how many were tried.
        reference: why no kernel serves the op there; None where one does.
        failure: what was wrong in the first case that failed; None if there is none.
        seconds: it took, without what all ops' kernels took to compile beforehand.
    """

    op: str
    device: str
    cases: int
    reference: str | None
    failure: str | None
    seconds: float


def check(op: str) -> Callable[[Check], Check]:
    """Register a check of the op; a failure on a GPU switches off what ``native.dispatch`` knows by it."""

    def register(function: Check) -> Check:
        _CHECKS[op] = function
        return function

    return register


def examine(device: torch.device | str) -> list[Finding]:
    """Check every op on a device; on a GPU, switch off the kernels that fail for the rest of the process.

    Call it at the start of a program to have that protection there too.

    Returns:
        a finding for each op, in the order of their names.
    """
    device = torch.device(device)
    if device.type != "cpu":
        _compile_beforehand(device)
    findings = [_examine(op, device) for op in sorted(_CHECKS)]
    for finding in findings:
        if finding.failure is not None and device.type != "cpu":
            dispatch.switch_off(finding.op, f"gloro-fast doctor found it wrong on {finding.device}: {finding.failure}")
    return findings


def _compile_beforehand(device: torch.device) -> None:
    checks = [_CHECKS[op] for op in sorted(_CHECKS) if dispatch.is_triton(op) and dispatch.why_not(op) is None]
    # It saves time and decides nothing: what fails here fails again, and is reported, in the check.
    with contextlib.suppress(Exception), torch.cuda.device(device), Progress("compiling kernels"):
        compile_kernels(checks)


def _examine(op: str, device: torch.device) -> Finding:
    start, cases, failure = time.perf_counter(), 0, None
    reference = extension.why_not() if device.type == "cpu" else dispatch.why_not(op)
    if reference is None:
        try:
            for wrong in _CHECKS[op](device):
                cases += 1
                if wrong is not None:
                    failure = wrong
                    break
        except Exception as error:  # a kernel may fail in any way, and must not take the program with it
            cases += 1
            failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return Finding(op, str(device), cases, reference, failure, time.perf_counter() - start)


def difference(what: str, actual: Tensor, expected: Tensor, relative: float = 0.0, absolute: float = 0.0) -> str | None:
    """Say where ``actual`` is further from ``expected`` than allowed; NaN and infinities must be in the same places.

    Args:
        what: names the case and the quantity.
        actual: from the kernel, on any device, of any type.
        expected: float64 or integer, on the CPU.
        relative: allowed, of the expected value.
        absolute: allowed.

    Returns:
        None if it is near enough.
    """
    if actual.shape != expected.shape:
        return f"{what}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    found, wanted = actual.detach().cpu().double(), expected.double()
    near = (found - wanted).abs() <= absolute + relative * wanted.abs()
    wrong = ~(near | (found == wanted) | (found.isnan() & wanted.isnan()))
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{what}: {int(wrong.sum())} of {wrong.numel()} values are wrong, "
        f"such as {found[place].item():.9g} instead of {wanted[place].item():.9g} at {place}"
    )
