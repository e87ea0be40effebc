"""The Triton kernels of minmax in Triton's interpreter. It is wrong for bfloat16: see test_minmax_simulated.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minmax_checks import channels_last, check, values
from torch import Tensor

from gloro_fast.native import extension

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")

SHAPES = [
    (4, 6),
    (1, 2),
    (3, 34),
    (130, 10),
    (5, 64),
    (3, 130),  # pairs that no tile of whole pixels holds
    (2, 4, 5, 7),
    (3, 6, 1, 1),
    (1, 2, 1, 9),
    (2, 8, 8, 8),
    (2, 6, 17, 33),  # a row longer than a tile
    (2, 4, 11),
    (2, 2, 3, 2, 5),
    (0, 4, 3, 3),
    (2, 0, 3, 3),
    (2, 4, 0, 3),
]


class Interpreted:
    """The functions of ``gloro_fast.kernels.minmax``, called in the interpreter's process."""

    def __init__(self, interpreter: Any, planted: tuple[str, str, str] | None = None) -> None:
        self._interpreter, self._planted = interpreter, planted

    def minmax(self, x: Tensor, bias: Tensor | None) -> Any:
        return self._interpreter.call("minmax", "minmax", x, bias, planted=self._planted)

    def minmax_(self, x: Tensor, bias: Tensor | None) -> Any:
        return self._interpreter.call("minmax", "minmax_", x, bias, planted=self._planted)

    def minmax_backward(self, grad_y: Tensor, mask: Tensor, with_bias: bool) -> Any:
        return self._interpreter.call("minmax", "minmax_backward", grad_y, mask, with_bias, planted=self._planted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(interpreter: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for x in {values(shape, dtype), channels_last(values(shape, dtype)) if len(shape) == 4 else values(shape, dtype)}:
        for with_bias in (False, True):
            check(Interpreted(interpreter), x, with_bias)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_in_any_shape(interpreter: Any, data: st.DataObject) -> None:
    shape = (
        data.draw(st.integers(0, 3), "batch"),
        2 * data.draw(st.integers(1, 9), "pairs"),
        *data.draw(st.lists(st.integers(1, 9), max_size=2), "spatial"),
    )
    numbers = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=8), "values")
    which = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), "seed"))
    x = torch.tensor([*numbers, 0.0, -0.0])[torch.randint(len(numbers) + 2, shape, generator=which)]
    if len(shape) == 4 and data.draw(st.booleans(), "channels_last"):
        x = channels_last(x)
    check(Interpreted(interpreter), x, data.draw(st.booleans(), "bias"))


@pytest.mark.parametrize("strides", ["expanded", "transposed"])
@pytest.mark.parametrize("to_format", [lambda x: x, channels_last])
def test_any_strides_of_the_incoming_gradient(interpreter: Any, to_format: Any, strides: str) -> None:
    grad_y = torch.randn(2, 4, 3, 5)
    grad_y = grad_y[:1].expand(2, 4, 3, 5) if strides == "expanded" else grad_y.mT.contiguous().mT
    _, mask = torch.ops.gloro_fast.minmax(to_format(torch.randn(2, 4, 3, 5)))
    actual, _ = interpreter.call("minmax", "minmax_backward", grad_y, mask, False)
    expected, _ = torch.ops.gloro_fast.minmax_backward(grad_y, mask, False)
    assert torch.equal(actual, expected)
    assert actual.stride() == expected.stride()


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("minmax", (torch.zeros(2, 3), None), "channels in pairs"),
        ("minmax", (torch.zeros(2, 4).double(), None), "float32, bfloat16 or float16"),
        ("minmax", (torch.zeros(2, 4), torch.zeros(2)), "one value a channel"),
        ("minmax_", (torch.zeros(2, 4, 3, 6)[..., ::2], None), "contiguous or channels_last"),
        ("minmax_backward", (torch.zeros(4, 4, 5, 5), torch.zeros(4, 4, dtype=torch.uint8), False), "mask is not that"),
    ],
)
def test_what_does_not_fit_is_refused(interpreter: Any, function: str, arguments: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        interpreter.call("minmax", function, *arguments)


def check_two(module: Interpreted) -> None:
    for x in (values((1, 4, 17, 33), torch.float32), channels_last(values((30, 6, 5, 7), torch.float32))):
        check(module, x, with_bias=True)


def test_no_bug_is_found_where_none_is_planted(interpreter: Any) -> None:
    check_two(Interpreted(interpreter))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("byte = start // 8 + own_byte", "byte = start // 8 + own_byte + 1"),
        ("<< tl.arange(0, 8)[None, None, :]", "<< (tl.arange(0, 8) ^ 1)[None, None, :]"),
        (">> tl.arange(0, 8)[None, :]", ">> (tl.arange(0, 8) ^ 1)[None, :]"),
        ("tl.interleave(low, high)", "tl.interleave(high, low)"),
        ("tl.where(swap, high, low), tl.where(swap, low, high)", "low, high"),
        ("tl.store(y + first, low, inside)", "tl.store(y + first, a, inside)"),
        ("(x.to(tl.float32) + bias.to(tl.float32)).to(x.dtype)", "x"),
        ("swap = wide_a > wide_b", "swap = wide_a >= wide_b"),
        ("swap | (wide_b != wide_b)", "swap"),
        ("swap | (wide_a != wide_a)", "swap"),
        ("total += tl.sum", "total = tl.sum"),
        ("block * rows + tile_row", "tile_row"),
        ("(2 * first_row + place)", "(2 * program // blocks * ROWS + place)"),
    ],
    ids=[
        "mask_off_by_one",
        "bits_exchanged",
        "bits_exchanged_backward",
        "pair_swapped",
        "gradient_not_routed",
        "low_not_written",
        "missing_bias",
        "wrong_tie",
        "nan_lost_low",
        "nan_lost_high",
        "sum_forgets",
        "sums_overwritten",
        "bias_of_other_rows",
    ],
)
def test_a_planted_bug_is_caught(interpreter: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check_two(Interpreted(interpreter, ("minmax", old, new)))
