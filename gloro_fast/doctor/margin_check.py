"""The margin: random rows, ties, NaN and infinities, two classes and many, every type, and the gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gloro_fast.doctor.examination import check, difference
from gloro_fast.ops.head_differences_op import head_differences_reference
from gloro_fast.ops.margin_op import margin, margin_reference

EPSILON = 0.3
# All types in one shape, the others in one type: Triton compiles anew for each, which is what takes the time.
_CASES = (
    *(((70, 10), dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    *((shape, torch.float32) for shape in ((1, 2), (33, 17), (9, 1000))),
)


@check("margin")
def check_margin(device: torch.device) -> Iterator[str | None]:
    """Yield for each problem whether values, and then whether gradients, are right."""
    for logits, differences, lipschitz, name in problems():
        yield _values_differ(name, logits, differences, lipschitz, device)
        yield _gradients_differ(name, logits, differences, lipschitz, device)


def problems() -> Iterator[tuple[Tensor, Tensor, Tensor, str]]:
    """Yield logits, D, K and the name of the case, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    for (rows, classes), dtype in _CASES:
        differences = head_differences_reference(torch.randn(classes, 7, generator=generator))
        logits = torch.randn(rows, classes, generator=generator).to(dtype)
        name = f"{rows} rows of {classes}, {str(dtype).removeprefix('torch.')}"
        yield logits, differences, torch.tensor(0.4), name


def _values_differ(
    name: str, logits: Tensor, differences: Tensor, lipschitz: Tensor, device: torch.device
) -> str | None:
    special = torch.tensor([0.0, 9.0, 9.0, torch.inf, -torch.inf, torch.nan]).to(logits.dtype)
    which = torch.randint(len(special), logits.shape, generator=torch.Generator().manual_seed(1))
    for kind, f in (
        ("ordinary", logits),
        ("ties, NaN and infinities", torch.where(which == 0, special[which], logits)),
    ):
        arguments = (f, differences, lipschitz)
        found = margin(f.to(device), differences.to(device), lipschitz.to(device), EPSILON)
        # Which of two close values is larger, float64 may say otherwise: in the same precision it must agree.
        for what, actual, expected in zip(
            ("bottom", "prediction", "radius"), found, margin_reference(*arguments, EPSILON), strict=True
        ):
            if wrong := difference(f"{what}, {kind}, {name}", actual, expected):
                return wrong
    return None


def _gradients_differ(
    name: str, logits: Tensor, differences: Tensor, lipschitz: Tensor, device: torch.device
) -> str | None:
    arguments = (logits, differences, lipschitz)
    exact, leaves = leaves_of(arguments, torch.float64), leaves_of(arguments, device)
    weights = torch.randn(len(logits), generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad(margin_reference(*exact, EPSILON)[0], exact, weights.double())
    found = torch.autograd.grad(margin(*leaves, EPSILON)[0], leaves, weights.to(device))
    return gradients_differ(name, found, expected)


def leaves_of(
    arguments: tuple[Tensor, Tensor, Tensor], target: torch.dtype | torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return copies of a type or on a device that require gradients."""
    f, d, k = (tensor.detach().to(target, copy=True).requires_grad_() for tensor in arguments)
    return f, d, k


def gradients_differ(name: str, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str | None:
    """Compare the gradients of logits, D and K with those of the float64 reference."""
    for what, actual, wanted in zip(("logits", "D", "K"), found, expected, strict=True):
        rounding = max(torch.finfo(actual.dtype).eps, 1e-5)
        allowed = rounding * float(wanted.abs().max())
        if wrong := difference(f"gradient of {what}, {name}", actual, wanted, rounding, allowed):
            return wrong
    return None
