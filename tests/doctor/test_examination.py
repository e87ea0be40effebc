"""That a broken kernel is found, reported and, on a GPU, replaced; and that right ones are called right."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from gloro_fast import doctor
from gloro_fast.doctor import examination
from gloro_fast.native import dispatch, extension

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_switched_off", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)


def examine_alone(op: str, monkeypatch: pytest.MonkeyPatch, device: str = "cpu") -> doctor.Finding:
    monkeypatch.setattr(examination, "_CHECKS", {op: examination._CHECKS[op]})
    (finding,) = doctor.examine(device)
    return finding


@compiled
def test_every_op_of_this_machine_is_right() -> None:
    findings = doctor.examine("cpu")
    assert {"minmax", "margin", "margin_loss", "head_differences", "fingerprint"} <= {f.op for f in findings}
    assert [f for f in findings if f.failure is not None] == []
    assert all(f.cases > 0 for f in findings)


class TestBrokenKernels:
    """Kernels of the CPU, broken: the checks are the same on every device."""

    @compiled
    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            (lambda y, mask: (y, mask ^ 1), "gradient, "),
            (lambda y, mask: (y.nextafter(y + 1).nextafter(y + 2), mask), "values, .* are wrong"),
            (lambda y, mask: (y.nan_to_num(0.0), mask), "instead of nan"),
        ],
        ids=["a_bit", "two_ulps", "nan_lost"],
    )
    def test_minmax(
        self,
        monkeypatch: pytest.MonkeyPatch,
        break_it: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        message: str,
    ) -> None:
        module: Any = sys.modules["gloro_fast.ops.minmax_op"]
        right = module._forward
        monkeypatch.setattr(module, "_forward", lambda x, bias: break_it(*right(x, bias)))
        finding = examine_alone("minmax", monkeypatch)
        assert finding.failure is not None
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(finding.failure)

    @compiled
    def test_margin_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module: Any = sys.modules["gloro_fast.doctor.margin_loss_check"]
        right = module.margin_loss

        def broken(*arguments: Any) -> tuple[Tensor, ...]:
            loss, prediction, certified = right(*arguments)
            return loss, prediction, ~certified

        monkeypatch.setattr(module, "margin_loss", broken)
        finding = examine_alone("margin_loss", monkeypatch)
        assert finding.failure is not None
        assert finding.failure.startswith("certified")


@compiled
class TestOnAGpu:
    """With checks that need none."""

    @pytest.mark.parametrize("kind", ["wrong", "raises"])
    def test_what_fails_is_switched_off_with_a_warning(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        def broken(device: torch.device) -> Iterator[str | None]:
            yield None
            if kind == "raises":
                raise RuntimeError("an illegal memory access\nwas encountered")
            yield "it is wrong"

        monkeypatch.setattr(examination, "_CHECKS", {"minmax": broken})
        with pytest.warns(RuntimeWarning, match="minmax as plain PyTorch on the GPU for the rest of this process"):
            (finding,) = doctor.examine("cuda:1")
        message = {"wrong": "it is wrong", "raises": "RuntimeError: an illegal memory access"}[kind]
        assert (finding.failure, finding.cases, finding.device) == (message, 2, "cuda:1")
        assert f"found it wrong on cuda:1: {message}" in str(dispatch.why_not("minmax"))

    def test_kernels_in_triton_are_compiled_beforehand_for_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        happened: list[Any] = []

        @contextmanager
        def current(device: torch.device) -> Iterator[None]:
            happened.append(device)
            yield

        def check(device: torch.device) -> Iterator[str | None]:
            happened.append(device)
            yield None

        def fail(checks: list[Any]) -> None:
            happened.append(checks)
            raise RuntimeError("there is no compiler")

        monkeypatch.setattr(torch.cuda, "device", current)
        monkeypatch.setattr(examination, "compile_kernels", fail)
        monkeypatch.setattr(examination, "_CHECKS", {"minmax": check, "power_iteration": lambda device: iter([None])})
        gpu = torch.device("cuda:1")
        findings = doctor.examine(gpu)
        assert happened == [gpu, [check], gpu]
        assert [finding.failure for finding in findings] == [None, None]

    def test_what_is_right_stays_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(examination, "_CHECKS", {"minmax": lambda device: iter([None, None])})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (finding,) = doctor.examine("cuda")
        assert finding.failure is None
        assert dispatch.why_not("minmax") is None

    def test_what_has_no_kernel_is_not_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
        finding = examine_alone("minmax", monkeypatch, "cuda")
        assert finding.cases == 0
        assert "triton is not installed" in str(finding.reference)


def test_without_the_extension_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "why_not", lambda: "it was left out")
    assert {(f.cases, f.reference, f.failure) for f in doctor.examine("cpu")} == {(0, "it was left out", None)}


class TestDifference:
    def test_equal_values(self) -> None:
        values = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, 0.0])
        assert examination.difference("x", values, values.double()) is None

    @pytest.mark.parametrize("actual", [torch.nan, torch.inf, 1.001])
    def test_different_values(self, actual: float) -> None:
        wrong = examination.difference("x", torch.tensor([2.0, actual]), torch.tensor([2.0, 1.0]), relative=1e-4)
        assert wrong is not None
        assert "1 of 2 values are wrong" in wrong
        assert "at (1,)" in wrong

    def test_other_shapes(self) -> None:
        assert "instead of (2,)" in str(examination.difference("x", torch.zeros(3), torch.zeros(2)))
