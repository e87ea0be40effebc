"""The Triton kernel that bounds distances for certificates, interpreted and as PTX: against rational numbers."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from gloro_fast.doctor import head_differences_check as checked
from gloro_fast.native import dispatch, extension
from gloro_fast.ops.head_difference_bounds_op import head_difference_bounds, head_difference_bounds_reference

pytest.importorskip("triton")
from gloro_fast.kernels import head_difference_bounds as kernels
from launches import launches
from simulated_gpu import far_out, gpu, needs_simulator

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
NAME = "head_difference_bounds"
SHAPES = [(2, 1), (3, 7), (10, 300), (32, 5), (33, 40), (40, 33), (1, 4), (0, 3), (4, 0)]


def rows_of(shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of no particular size, two of them equal, two very close, reproducible."""
    generator = torch.Generator().manual_seed(shape[0])
    weight = torch.randn(shape, generator=generator, dtype=torch.float64) + 3.0
    if shape[0] > 4:
        weight[2] = weight[0]
        weight[4] = weight[1]
        weight[4, -1] *= 1 + 2.0**-40
    return weight.to(dtype)


def squares_of(weight: Tensor) -> list[list[Fraction]]:
    """||w_i - w_j||^2, exactly."""
    rows = [[Fraction(value) for value in row] for row in weight.double().tolist()]
    return [[sum(((x - y) ** 2 for x, y in zip(a, b, strict=True)), Fraction(0)) for b in rows] for a in rows]


def check(found: Tensor, weight: Tensor, excess: Fraction = Fraction(1, 10**12)) -> None:
    """Never below the real distance, without a tolerance, and not much above it; 0 for equal rows alone."""
    width = weight.shape[1]
    assert found.dtype == torch.float64
    assert torch.equal(found, found.t())
    smallest = torch.finfo(torch.promote_types(weight.dtype, torch.float32)).tiny
    room = Fraction(width**0.5 * 4 * smallest) * 2
    for i, row in enumerate(squares_of(weight)):
        for j, square in enumerate(row):
            bound = Fraction(found[i, j].item())
            assert bound**2 >= square
            assert (bound == 0) == (square == 0)
            assert max(bound - room, Fraction(0)) ** 2 <= square * (1 + excess)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_contains_the_real_distances(call: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = rows_of(shape, dtype)
    check(call(NAME, NAME, weight), weight)


@needs_simulator
def test_bfloat16() -> None:
    """Which the interpreter does not know."""
    from simulated_gpu import call

    weight = rows_of((10, 70), torch.bfloat16)
    check(call(NAME, NAME, weight), weight)


def test_rows_of_any_strides(call: Any) -> None:
    weight = rows_of((9, 5)).t()
    assert torch.equal(call(NAME, NAME, weight), call(NAME, NAME, weight.contiguous()))


@pytest.mark.parametrize("size", [1e-139, 1e-141, 1e-160, 1e-200, 1e-290, 1e-307, 2.0**-1074])
def test_distances_whose_squares_underflow(call: Any, size: float) -> None:
    """Alone, and beside others that do not; the fallback is above by sqrt(d) at most."""
    weight = rows_of((34, 6), torch.float64)
    small = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * size
    weight[29:] = small if size > 2.0**-1074 else torch.eye(6, dtype=torch.float64)[:5] * size
    weight[33] = weight[30]
    check(call(NAME, NAME, weight), weight, excess=Fraction(6))


def test_subnormals_of_float32_are_not_equal(call: Any) -> None:
    weight = torch.zeros(3, 5)
    weight[1, 2], weight[2, 2] = 2.0**-149, -(2.0**-140)
    check(call(NAME, NAME, weight), weight)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_what_overflows_or_is_no_number_certifies_nothing(call: Any) -> None:
    weight = rows_of((6, 5), torch.float64)
    weight[1], weight[3, 4], weight[5, 0] = 1e200, torch.nan, torch.inf
    found = call(NAME, NAME, weight)
    expected = head_difference_bounds_reference(weight)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    assert not found[1][[0, 2, 3, 4, 5]].isfinite().any()
    assert not found.diagonal().any()


@needs_simulator
def test_the_root_is_rounded_to_nearest_and_nothing_is_flushed() -> None:
    """What the derivation takes for granted of the instructions that are generated."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        with gpu(90, run=False) as simulated:
            kernels.head_difference_bounds(torch.zeros(40, 64, dtype=dtype))
        ptx = simulated.launches[0].kernel.asm["ptx"]
        assert set(re.findall(r"\bsqrt\S*", ptx)) == {"sqrt.rn.f64"}
        assert not re.findall(r"\S*\.(?:ftz|approx)\S*", ptx)


@needs_simulator
def test_bounds_beyond_two_to_the_31() -> None:
    """Of 50,000 classes the last tile alone, with the memory that it may touch."""
    rows, count, columns = 50_000, 16, 32
    first = rows - count
    assert first * rows > 2**31
    weight = rows_of((count, columns))
    bounds = torch.zeros(count, rows, dtype=torch.float64)

    def last_tile(ptx: str) -> str:
        return str(far_out(first // count)(ptx)).replace("%ctaid.y", str(first // count))

    with gpu(edit=last_tile) as simulated:
        simulated.origins = {weight: first * columns * 4, bounds: first * rows * 8}
        kernels.pair_bounds[(1, 1)](
            weight, bounds, rows, columns, ROWS=count, COLUMNS=16, INTEGER=kernels._INTEGERS[4], num_warps=8
        )
    check(bounds[:, first:], weight)
    assert not bounds[:, :first].any()


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.zeros(3, 4, dtype=torch.int32), torch.zeros(2, 3, 4)])
def test_what_does_not_fit_is_refused(weight: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"must be \(classes, features\) of float64, float32, bfloat16 or float16"):
        kernels.head_difference_bounds(weight)


def test_one_launch_and_no_wait_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu(run=False), launches(monkeypatch) as counted:
        found = kernels.head_difference_bounds(torch.empty(10, 512, device="cuda"))
    assert (counted.kernels, counted.operations, counted.waits) == (["pair_bounds"], [], [])
    assert found.shape == (10, 10)


def test_bounds_of_a_net_take_the_kernel_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "runs", lambda op: op == NAME)
    with launches(monkeypatch) as counted:
        found = head_difference_bounds(torch.nn.Parameter(torch.empty(10, 512, device="cuda")))
    assert (found.shape, found.dtype, found.requires_grad) == ((10, 10), torch.float64, False)
    assert (counted.operations, counted.waits) == ([NAME], [])


def test_they_are_plain_pytorch_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "runs", lambda op: False)
    with launches(monkeypatch) as counted, pytest.raises(DataDependentOutputException):
        head_difference_bounds(torch.empty(10, 512, device="cuda"))
    assert "_pdist_forward" in counted.operations


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if tl.program_id(1) < tl.program_id(0):", "if tl.program_id(1) <= tl.program_id(0):"),
        ("bounds + j[None, :].to(tl.int64) * rows + i[:, None]", "bounds + i[:, None] * rows + j[None, :]"),
        ("total += apart * apart", "total = apart * apart"),
        ("* (1.0 + (width + 8.0) * (2.0 * _UNIT_ROUNDOFF))", "* (1.0 - (width + 8.0) * (2.0 * _UNIT_ROUNDOFF))"),
        ("bound = tl.where(own, 0.0, bound)", ""),
        ("apart = of_i.to(tl.float64) - of_j.to(tl.float64)", "apart = (of_i - of_j).to(tl.float32)"),
        ("tl.where(tl.max(differ, 2) > 0, wider, 0.0)", "wider"),
    ],
    ids=["no_diagonal", "one_triangle", "last_step", "inward", "own", "single", "equal_rows"],
)  # fmt: skip
def test_a_planted_bug_is_caught(call: Any, old: str, new: str) -> None:
    weight = rows_of((33, 40))
    with pytest.raises(AssertionError):
        check(call(NAME, NAME, weight, planted=(NAME, old, new)), weight)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.max(near.to(tl.int32), 1), 0) > 0", "tl.max(near.to(tl.int32), 1), 0) > 1"),
        ("distance < _SAFE_DISTANCE", "distance < 1e-170"),
        ("tl.max(largest, 2) * tl.sqrt(_as_float64(columns))", "tl.max(largest, 2)"),
        ("largest = tl.maximum(largest, ", "largest = tl.minimum(largest, "),
        ("differ |= ", "differ = "),
    ],
    ids=["no_fallback", "threshold", "root", "smallest", "last_step"],
)  # fmt: skip
def test_a_bug_planted_in_the_fallback_is_caught(call: Any, old: str, new: str) -> None:
    weight = torch.full((34, 40), 3e-162, dtype=torch.float64)
    weight[0, :20] = 0.0
    weight[1], weight[33, 0] = -weight[1], 0.0
    with pytest.raises(AssertionError):
        check(call(NAME, NAME, weight, planted=(NAME, old, new)), weight, excess=Fraction(40))


@needs_simulator
def test_the_doctor_takes_the_kernel_for_right_and_a_broken_one_for_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulated_gpu import call

    monkeypatch.setattr(checked, NAME, lambda weight: call(NAME, NAME, weight))
    assert list(checked.check_head_difference_bounds(torch.device("cpu"))) == [None] * 3
    planted = (NAME, "total += apart * apart", "total = apart * apart")
    monkeypatch.setattr(checked, NAME, lambda weight: call(NAME, NAME, weight, planted=planted))
    assert "values are wrong" in next(checked.check_head_difference_bounds(torch.device("cpu")))


@needs_simulator
def test_a_row_too_far_is_caught() -> None:
    from simulated_gpu import call

    planted = (NAME, "(j < rows)[:, None] & inside, 0)", "inside, 0)")
    with pytest.raises(Exception, match="out of bounds"):
        call(NAME, NAME, rows_of((33, 40)), planted=planted)
