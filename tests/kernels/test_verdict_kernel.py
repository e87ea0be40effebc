"""The Triton kernels that sign certificates and look at images, interpreted and as PTX in a simulator."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops.certify import certify_logits
from gloro_fast.ops.image_codes import NOT_FINITE, OUTSIDE, image_codes_reference
from gloro_fast.ops.verdict import CHANGED, verdict_reference

pytestmark = [
    pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, of what is not finite
]
Planted = tuple[str, str, str] | None
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def problem(seed: int, rows: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits and differences over the whole range of the type, with ties and what is not finite among them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    scale = torch.randint(-300, 300, (rows, 1), generator=generator) if seed % 2 else torch.zeros(rows, 1)
    logits = (logits * 10.0**scale).to(dtype)
    big = torch.finfo(dtype).max
    special = torch.tensor([0.0, -0.0, 9.0, 9.0, big, -big, 5e-324, torch.inf, -torch.inf, torch.nan]).to(dtype)
    which = torch.randint(len(special), logits.shape, generator=generator)
    rate = torch.rand(rows, 1, generator=generator) ** 2 * min(1, 20 / classes)
    logits = torch.where(torch.rand(logits.shape, generator=generator) < rate, special[which], logits)
    differences = torch.rand(classes, classes, generator=generator, dtype=torch.float64).fill_diagonal_(0)
    if seed % 3 == 0:
        odd = torch.tensor([0.0, 5e-324, 1e-200, 1e200, 1e308, math.inf, math.nan], dtype=torch.float64)
        which = torch.randint(len(odd), differences.shape, generator=generator)
        differences = torch.where(torch.rand(differences.shape, generator=generator) < 0.1, odd[which], differences)
    return logits, differences


def check_certify(
    call: Any, logits: Tensor, differences: Tensor, lipschitz: float, epsilon: float, planted: Planted = None
) -> None:
    found = call("verdict", "certify", logits, differences, lipschitz, epsilon, planted=planted)
    for actual, expected in zip(found, certify_logits(logits, differences, lipschitz, epsilon), strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seed", range(4))
def test_it_has_the_bits_of_the_cpu(call: Any, seed: int, dtype: torch.dtype) -> None:
    check_certify(call, *problem(seed, 24, 2 + 3 * seed, dtype), 1.3, 0.3)


@pytest.mark.parametrize("classes", [2, 16, 17, 700, 4096])
def test_classes(call: Any, classes: int) -> None:
    logits, differences = problem(1, 4 if classes < 1000 else 2, classes, torch.float32)
    # The simulator takes 0.0 and -0.0 for equals, of which a maximum is either: it would see lanes that differ.
    check_certify(call, logits + 0.0, differences, 0.4, 0.1)


NUMBERS = [
    (0.0, 0.3), (5e-324, 0.3), (1e-200, 0.0), (1e300, 1e-320), (math.inf, 0.3), (math.nan, 0.3), (0.7, 1e300),
    (1.1, math.inf), (2.0, 5e-324),
]  # fmt: skip


@pytest.mark.parametrize(("lipschitz", "epsilon"), NUMBERS)
def test_numbers(call: Any, lipschitz: float, epsilon: float) -> None:
    for seed in (0, 3):
        check_certify(call, *problem(seed, 12, 5, torch.float64 if seed else torch.float32), lipschitz, epsilon)


def test_an_epsilon_that_is_a_radius(call: Any) -> None:
    """It is not certified at that, and is at the number below."""
    logits, differences = problem(2, 8, 6, torch.float32)
    logits = logits.nan_to_num(3.0, 1.0, -1.0)
    for radius in certify_logits(logits, differences, 1.3, 0.0)[1].tolist():
        for epsilon in (radius, math.nextafter(radius, 0)):
            check_certify(call, logits, differences, 1.3, epsilon)


def test_no_row(call: Any) -> None:
    check_certify(call, torch.zeros(0, 3), torch.zeros(3, 3, dtype=torch.float64), 1.0, 0.1)


def test_no_radius_is_above_the_real_one_nor_bottom_below_it(call: Any) -> None:
    logits, differences = torch.randn(20, 4, dtype=torch.float64), torch.rand(4, 4, dtype=torch.float64)
    epsilon = 0.3
    prediction, radius, bottom = call("verdict", "certify", logits, differences, 1.1, epsilon)
    for row, j, r, low in zip(logits.tolist(), prediction.tolist(), radius.tolist(), bottom.tolist(), strict=True):
        constants = [Fraction(1.1) * Fraction(float(differences[j, i])) for i in range(4)]
        others = [i for i in range(4) if i != j]
        assert Fraction(r) < min((Fraction(row[j]) - Fraction(row[i])) / constants[i] for i in others)
        if r <= epsilon:  # elsewhere it is moved below the top
            assert Fraction(low) > max(Fraction(row[i]) + Fraction(epsilon) * constants[i] for i in others)


UNDEFINED = torch.tensor([[0.0, math.inf, 1.0]], dtype=torch.float64).repeat(3, 1)


def test_a_sum_that_is_undefined_gives_bottom(call: Any) -> None:
    check_certify(call, torch.tensor([[3.0, 2.0, 1.0]]), UNDEFINED, 1.0, 0.0)


def test_a_sum_that_is_undefined_and_forgotten_is_caught() -> None:
    """Not by the interpreter, whose maximum is NaN where that of a GPU is the other number."""
    simulated_gpu = pytest.importorskip("simulated_gpu")
    if not simulated_gpu.SIMULATOR:
        pytest.skip("needs a PTX simulator: set GLORO_FAST_PTX_SIM to a folder with ptx_sim.py")
    planted = ("verdict", "& (undefined == 0)", "")
    with pytest.raises(AssertionError):
        check_certify(simulated_gpu.call, torch.tensor([[3.0, 2.0, 1.0]]), UNDEFINED, 1.0, 0.0, planted)


def doubts(rows: int, tensors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of images, shares of hashes, and the hashes."""
    generator = torch.Generator().manual_seed(rows)
    codes = torch.tensor([0, OUTSIDE, NOT_FINITE, OUTSIDE | NOT_FINITE], dtype=torch.uint8)
    shares = torch.randint(-(2**63), 2**63 - 1, (tensors, 4), generator=generator)
    return codes[torch.arange(rows) % 4], shares, shares.sum(1)


def check_verdict(
    call: Any, logits: Tensor, differences: Tensor, *doubt: Tensor | None, planted: Planted = None
) -> None:
    found = call("verdict", "verdict", logits, differences, 1.3, 0.05, *doubt, planted=planted)
    for actual, expected in zip(found, verdict_reference(logits, differences, 1.3, 0.05, *doubt), strict=True):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tensors", [1, 8, 9, 20])
def test_doubts(call: Any, tensors: int) -> None:
    logits, differences = problem(4, 16, 5, torch.float32)
    codes, shares, signed = doubts(16, tensors)
    check_verdict(call, logits, differences, codes, shares, signed)
    changed = signed.clone()
    changed[-1] ^= 1 << 40
    check_verdict(call, logits, differences, codes, shares, changed)
    *_, found = call("verdict", "verdict", logits, differences, 1.3, 0.05, None, shares, changed)
    assert (found >= CHANGED).all()


def test_doubts_of_a_net_without_tensors(call: Any) -> None:
    logits, differences = problem(4, 16, 5, torch.float32)
    check_verdict(
        call, logits, differences, None, torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    )
    check_verdict(call, logits, differences, None, None, None)


def cases() -> list[tuple[Tensor, Tensor, float, float]]:
    """Few, of which at least one shows each of the bugs below."""
    found = []
    for seed, dtype in ((2, torch.float32), (4, torch.float64), (3, torch.float64), (9, torch.float32)):
        logits, differences = problem(seed, 12, 4, dtype)
        radius = certify_logits(logits, differences, 1.3, 0.0)[1]
        found.append((logits, differences, 1.3, max((r for r in radius.tolist() if 0 < r < math.inf), default=0.3)))
    plain = torch.ones(2, 2, dtype=torch.float64).fill_diagonal_(0)
    top = torch.tensor([[1e-300, 0.0]], dtype=torch.float64)
    found.append((top, plain * 1e-200, 1e-200, 0.3))
    found.append((top, plain, 0.0, 5.0))
    found.append((torch.tensor([[2.0, 1.0]]), plain.clone().fill_diagonal_(math.inf), 1.0, 0.0))
    return found


def check_cases(call: Any, planted: Planted = None) -> None:
    for case in cases():
        check_certify(call, *case, planted)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.where(gap > 0, next_down(gap), 0.0)", "tl.where(gap > 0, gap, 0.0)"),
        ("tl.where(least > 0, next_down(least), 0.0)", "least"),
        ("above = next_up(product)", "above = product"),
        ("above = tl.where(above < _SMALLEST, _SMALLEST, above)", "above = above"),
        ("& ((gap > 0) & (bound == 0) == 0)", ""),
        ("column != j[:, None]", "column != 0"),
        ("finite & bounded, below", "finite, below"),
        ("finite & bounded, below", "bounded, below"),
        ("tl.where(rise > 0, next_up(rise), rise)", "rise"),
        ("highest = next_up(tl.max(", "highest = (tl.max("),
        ("signed_radius > epsilon", "signed_radius >= epsilon"),
        ("limit = next_after(top.to(tl.float32), signs == 0)", "limit = top.to(tl.float32)"),
        ("j[:, None].to(tl.int64) * classes + column", "column * classes + j[:, None].to(tl.int64)"),
        ("inside, 0).to(tl.float64)", "inside, 0).to(tl.float32).to(tl.float64)"),
    ],
    ids=[
        "gap_not_down", "quotient_not_down", "product_not_up", "underflow", "zero_slope", "other_class",
        "bound_not_finite", "logits_not_finite", "rise_not_up", "sum_not_up", "tie_with_epsilon", "not_apart",
        "transposed", "float32",
    ],
)  # fmt: skip
def test_a_planted_bug_in_signing_is_caught(interpreter: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check_cases(interpreter.call, ("verdict", old, new))


def test_what_bugs_are_planted_in_is_right(interpreter: Any) -> None:
    check_cases(interpreter.call)
    check_changes(interpreter.call)


def check_changes(call: Any, planted: Planted = None) -> None:
    logits, differences = problem(4, 16, 5, torch.float32)
    codes, shares, signed = doubts(16, 20)
    for by in (0, 1, -1):
        changed = signed.clone()
        changed[0] += by
        check_verdict(call, logits, differences, codes, shares, changed, planted=planted)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("present != tl.load(signed + tensor, inside, 0)", "present > tl.load(signed + tensor, inside, 0)"),
        ("differs |= ", "differs = "),
        ("(_CHANGED | _NOT_FINITE)", "_CHANGED"),
        ("(_CHANGED | _NOT_FINITE)", "_NOT_FINITE"),
        ("(_CHANGED | _NOT_FINITE)", "255"),
        ("tl.where(doubtful, INFINITY, low)", "low"),
        ("tl.where(doubtful, 0.0, signed_radius)", "signed_radius"),
        ("signs & (doubtful == 0)", "signs"),
        ("tl.load(images + row)", "tl.load(images)"),
    ],
)
def test_a_planted_bug_about_doubts_is_caught(interpreter: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check_changes(interpreter.call, ("verdict", old, new))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(4, 1), "2 to 4096 classes, got torch.float32 .4, 1."),
        (0, torch.zeros(4, 4097), "2 to 4096 classes"),
        (0, torch.zeros(4, 3, dtype=torch.int64), "of floats"),
        (1, torch.zeros(3, 3), "differences must be .3, 3. of float64"),
        (4, torch.zeros(4), "images must be .4,. of uint8"),
        (5, torch.zeros(2, 4), "must be int64"),
        (6, None, "must be int64"),
        (6, torch.zeros(3, dtype=torch.int64), "must be int64"),
        (6, torch.zeros(2, dtype=torch.int64, device="meta"), "beside the logits"),
    ],
)
def test_what_does_not_fit_is_refused(place: int, value: Tensor | None, message: str) -> None:
    kernels = pytest.importorskip("gloro_fast.kernels.verdict")
    arguments: list[Any] = [
        torch.zeros(4, 3), torch.zeros(3, 3, dtype=torch.float64), 1.0, 0.1, torch.zeros(4, dtype=torch.uint8),
        torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64),
    ]  # fmt: skip
    arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        kernels.verdict(*arguments)


def images(dtype: torch.dtype, *shape: int) -> Tensor:
    """Each image has one thing about it, at its first pixel, its last or one between."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    tiny = torch.finfo(dtype).tiny
    odd = [0.0, 1.0, -0.0, -tiny, 1 + torch.finfo(dtype).eps, math.inf, -math.inf, math.nan]
    for row, pixels in enumerate(x.view(len(x), -1)):
        pixels[[0, -1, pixels.numel() // 2][row % 3]] = odd[row % len(odd)]
    return x


def check_codes(call: Any, x: Tensor, planted: Planted = None) -> None:
    found = call("image_codes", "image_codes", x, planted=planted)
    expected = image_codes_reference(x)
    assert found.dtype == expected.dtype == torch.uint8
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(24, 1, 3, 3), (9, 2, 33, 40), (3, 5)])
def test_images(call: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check_codes(call, images(dtype, *shape))


def test_every_kind_of_image_is_told_apart() -> None:
    codes = image_codes_reference(images(torch.float32, 8, 3)).tolist()
    assert codes == [0, 0, 0, OUTSIDE, OUTSIDE, OUTSIDE | NOT_FINITE, OUTSIDE | NOT_FINITE, NOT_FINITE]


def test_images_of_any_strides(call: Any) -> None:
    x = images(torch.float32, 24, 3, 4, 5)
    check_codes(call, x.contiguous(memory_format=torch.channels_last))
    check_codes(call, x[::2, 1:])
    check_codes(call, x.permute(0, 2, 3, 1))
    check_codes(call, x[5:6].expand(7, 3, 4, 5))
    check_codes(call, x[:0])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("place < pixels, 0", "place < pixels - 1, 0"),
        ("(value < 0) | (value > 1)", "(value < 0) | (value >= 1)"),
        ("(value < 0) | (value > 1)", "(value <= 0) | (value > 1)"),
        ("tl.abs(value) < INFINITY", "value < INFINITY"),
        ("code |= tl.where(tl", "code = tl.where(tl"),
        ("row * step", "row * 0"),
    ],
)
def test_a_planted_bug_in_looking_at_images_is_caught(interpreter: Any, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check_codes(interpreter.call, images(torch.float32, 24, 1, 3, 3), ("image_codes", old, new))
