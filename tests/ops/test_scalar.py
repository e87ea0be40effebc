"""Numbers in tensors: followed in place, copied where they must stay, and the same bits as Python numbers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from gloro_fast.errors import ConfigError
from gloro_fast.ops import (
    emma,
    emma_reference,
    head_differences,
    lmt,
    lmt_reference,
    margin,
    margin_loss,
    margin_loss_reference,
    margin_reference,
    trades_reference,
)
from gloro_fast.ops.scalar import Scalar, as_scalar

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
EPSILON, LAMBDA = 0.3, 1.7  # neither is a float32


class TestScalar:
    def test_its_tensor_is_the_same_for_ever_and_follows_it(self) -> None:
        number = Scalar(EPSILON)
        tensor = number.on(CPU)
        assert (tensor.shape, tensor.dtype, tensor.item()) == ((), torch.float64, EPSILON)
        number.value = 0.1
        assert number.on(CPU) is tensor
        assert tensor.item() == number.value == 0.1

    def test_what_was_read_stays(self) -> None:
        number = Scalar(2.0)
        x = torch.ones(3, requires_grad=True)
        y = (number.read(CPU) * x).sum()
        number.value = 5.0
        y.backward()
        assert torch.equal(x.grad, torch.full((3,), 2.0))  # type: ignore[arg-type]

    def test_it_is_read_without_a_copy_until_it_is_set(self) -> None:
        number = Scalar(2.0)
        before = number.read(CPU)
        assert number.read(CPU) is before
        assert number.on(CPU) is not before
        number.value = 5.0
        assert (before.item(), number.read(CPU).item()) == (2.0, 5.0)

    def test_what_a_capture_needs_is_there_once_it_was_read(self) -> None:
        number = Scalar(2.0)
        meta = torch.device("meta")
        number.read(meta)
        assert number._tensors[meta] is number.on(meta)

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda number: pickle.loads(pickle.dumps(number))])
    def test_copies_are_on_their_own(self, copied: Callable[[Scalar], Scalar]) -> None:
        number = Scalar(EPSILON)
        tensor = number.on(CPU)
        twin = copied(number)
        number.value = 0.1
        assert twin.value == twin.on(CPU).item() == EPSILON
        assert twin.on(CPU) is not tensor

    def test_a_tensor_made_in_inference_mode_serves_training(self) -> None:
        number = Scalar(EPSILON)
        with torch.inference_mode():
            assert not number.on(CPU).is_inference()
        number.value = 0.1
        assert number.on(CPU).item() == 0.1

    def test_what_is_no_tensor_of_its_own_is_not_kept(self) -> None:
        number = Scalar(EPSILON)
        with FakeTensorMode():
            assert number.on(CUDA).device == CUDA
        torch.func.grad(lambda x: x * number.on(CPU))(torch.ones(()))
        assert type(number.on(CPU)) is Tensor
        assert number.on(CPU).item() == EPSILON
        assert not number._tensors.get(CUDA)

    def test_while_a_graph_is_captured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for what in ("is_initialized", "is_current_stream_capturing"):
            monkeypatch.setattr(torch.cuda, what, lambda: True)
        number = Scalar(EPSILON)
        with FakeTensorMode(), pytest.raises(ConfigError, match="run one step there before"):
            number.on(CUDA)
        number._tensors[CUDA] = torch.zeros(())
        assert number.read(CUDA) is number.on(CUDA)


def test_a_number_on_another_device_is_filled_in_there() -> None:
    with FakeTensorMode():
        assert as_scalar(EPSILON, CUDA).device == CUDA
    tensor = torch.tensor(EPSILON, dtype=torch.float64)
    assert as_scalar(tensor, CPU) is tensor
    assert as_scalar(tensor.float(), CPU).dtype == torch.float64


def problem(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    differences = head_differences(torch.randn(5, 7, generator=generator).to(wide))
    return logits, differences, torch.tensor(0.4, dtype=wide)


LABELS = torch.arange(200) % 5
CALLS: dict[str, Callable[..., Any]] = {
    "margin": lambda f, d, k, e, w: margin(f, d, k, e),
    "margin_reference": lambda f, d, k, e, w: margin_reference(f, d, k, e),
    "emma": lambda f, d, k, e, w: emma(f, d, k, e, LABELS),
    "emma_reference": lambda f, d, k, e, w: [emma_reference(f, d, k, e, LABELS)],
    "lmt": lambda f, d, k, e, w: lmt(f, d, k, e, LABELS),
    "lmt_reference": lambda f, d, k, e, w: [lmt_reference(f, d, k, e, LABELS)],
    "trades_reference": lambda f, d, k, e, w: [trades_reference(f, LABELS % 4, w) + 0 * (d.sum() + k)],
    **{
        f"{function.__name__}, {criterion}": (
            lambda f, d, k, e, w, function=function, criterion=criterion: function(f, d, k, e, LABELS, criterion, w)
        )
        for function in (margin_loss, margin_loss_reference)
        for criterion in ("ce", "trades-kl", "trades-ce")
    },
}


def as_tensors(*numbers: float) -> list[Tensor]:
    return [torch.tensor(number, dtype=torch.float64) for number in numbers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_tensor_gives_the_bits_of_the_number(call: Callable[..., Any], dtype: torch.dtype) -> None:
    arguments = problem(dtype)
    radius = float(margin_reference(*arguments, 0.0)[2][0])  # the hardest epsilon
    for epsilon in (EPSILON, radius):
        found = []
        for numbers in ([epsilon, LAMBDA], as_tensors(epsilon, LAMBDA)):
            leaves = [tensor.clone().requires_grad_() for tensor in arguments]
            results = call(*leaves, *numbers)
            found.append([*results, *torch.autograd.grad(results[0].sum(), leaves)])
        for one, other in zip(*found, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_and_so_does_vmap(call: Callable[..., Any]) -> None:
    logits, differences, lipschitz = problem(torch.float32)
    batches = torch.stack([logits, 2 * logits])
    found = [
        torch.func.vmap(lambda f, numbers=numbers: call(f, differences, lipschitz, *numbers)[0])(batches)
        for numbers in ([EPSILON, LAMBDA], as_tensors(EPSILON, LAMBDA))
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_numbers_are_constants(call: Callable[..., Any]) -> None:
    arguments = [tensor.requires_grad_() for tensor in problem(torch.float64)]
    epsilon, lam = (number.requires_grad_() for number in as_tensors(EPSILON, LAMBDA))
    if call is CALLS["trades_reference"]:
        lam = lam.detach()
    call(*arguments, epsilon, lam)[0].sum().backward()
    assert epsilon.grad is None
    assert lam.grad is None


@pytest.mark.parametrize("bad", [torch.tensor([0.3, 0.4], dtype=torch.float64)])
def test_one_number_and_no_more(bad: Tensor) -> None:
    arguments = problem(torch.float32)
    with pytest.raises(RuntimeError, match="epsilon must be one float64 number"):
        margin(*arguments, bad)
    with pytest.raises(RuntimeError, match="lam must be one float64 number"):
        margin_loss(*arguments, EPSILON, LABELS, "ce", bad)
