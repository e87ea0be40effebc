"""How ops find their kernels on a GPU, without one: with fake tensors and in torch's dispatcher."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch._subclasses import FakeTensorMode

from gloro_fast.native import dispatch, extension
from gloro_fast.ops import head_differences, margin, margin_loss, minmax, minmax_

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_switched_off", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "_HAS_TRITON", True)


@pytest.fixture
def on_gpu() -> Iterator[torch.Tensor]:
    with FakeTensorMode():
        yield torch.empty(2, 4, 5, 7, device="cuda")


def runs_as_kernel(x: torch.Tensor) -> bool:
    """The reference's mask is bool, that of the kernels bits."""
    return minmax(x)[1].dtype == torch.uint8


@pytest.mark.parametrize(
    "op",
    [
        "minmax", "minmax_", "minmax_backward", "margin", "margin_backward", "margin_loss", "margin_loss_backward",
        "head_differences", "head_differences_backward", "product_backward", "count", "record_",
        "certify", "fingerprint_shares", "image_codes", "verdict",
    ],
)  # fmt: skip
def test_kernels_are_registered_for_the_gpu(op: str) -> None:
    assert extension.has_kernel(op, "cuda")


def test_there_is_no_kernel_without_an_op() -> None:
    assert not extension.has_kernel("no_such_op", "cuda")
    assert dispatch.why_not("no_such_op") == "there is no kernel for it on this device"


def test_they_take_tensors_on_the_gpu(on_gpu: torch.Tensor) -> None:
    assert runs_as_kernel(on_gpu)
    assert runs_as_kernel(on_gpu.bfloat16())
    assert not runs_as_kernel(on_gpu.double())
    assert minmax_(on_gpu) is on_gpu


def test_margin_and_losses_take_tensors_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(dispatch, "runs", lambda op: bool(called.append(op)) or True)
    with FakeTensorMode():
        logits, differences = torch.empty(4, 10, device="cuda"), torch.empty(10, 10, device="cuda")
        lipschitz, labels = torch.empty((), device="cuda"), torch.empty(4, dtype=torch.int64, device="cuda")
        assert margin(logits, differences, lipschitz, 0.3)[0].device.type == "cuda"
        assert margin_loss(logits, differences, lipschitz, 0.3, labels, "ce")[0].shape == (4,)
        assert called == ["margin", "margin_loss"]
        runs_compiled = sys.modules["gloro_fast.ops.margin_op"].runs_compiled
        assert not runs_compiled("margin", logits.double(), differences, lipschitz)
        assert not runs_compiled("margin", torch.empty(4, 5000, device="cuda"), differences, lipschitz)


def test_distances_of_the_head_take_weights_on_the_gpu() -> None:
    with FakeTensorMode():
        weight = torch.empty(10, 7, device="cuda", dtype=torch.bfloat16)
        assert head_differences(weight).dtype == torch.float32
        assert not sys.modules["gloro_fast.ops.head_differences_op"].runs_compiled(weight.double())


def test_without_triton_the_reference_runs_and_one_warning_says_so(
    on_gpu: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_HAS_TRITON", False)
    with pytest.warns(RuntimeWarning, match="minmax as plain PyTorch on the GPU.*triton is not installed"):
        assert not runs_as_kernel(on_gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not runs_as_kernel(on_gpu)


def test_a_kernel_that_is_switched_off_stays_off(on_gpu: torch.Tensor) -> None:
    with pytest.warns(RuntimeWarning, match="rest of this process: it is wrong here"):
        dispatch.switch_off("minmax", "it is wrong here")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not runs_as_kernel(on_gpu)
    assert dispatch.why_not("minmax") == "it is wrong here"


def test_importing_the_package_does_not_import_triton() -> None:
    code = "import sys; from gloro_fast import GloRoNet; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
