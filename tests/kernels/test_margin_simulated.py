"""The PTX that Triton generates for margin and its losses, run in a simulator, called as torch calls it on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from margin_checks import NUMBERS, check_gradients, check_loss, check_margin, problem, saved, with_specials
from planting import planted
from torch import Tensor

from gloro_fast.native import extension

pytest.importorskip("triton")
from gloro_fast.kernels import margin as margin_kernel
from gloro_fast.kernels import margin_gradients as gradients_kernel
from gloro_fast.kernels import margin_loss as loss_kernel
from gloro_fast.kernels.margin_tiles import RowTiles
from simulated_gpu import far_out, gpu, needs_simulator

pytestmark = [
    needs_simulator,
    pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}"),
]


def as_on_a_gpu(op: str) -> Any:
    """What torch's dispatcher has for the op on CUDA."""
    overload = getattr(torch.ops.gloro_fast, op).default
    return partial(overload._op_dk, torch._C.DispatchKey.CUDA)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((70, 10), torch.float32),
        ((70, 10), torch.bfloat16),
        ((5, 37), torch.bfloat16),
        ((5, 37), torch.float16),
        ((3, 1000), torch.float32),
    ],
)
def test_margin(shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits, differences, lipschitz = problem(*shape, dtype)
    with gpu():
        for f in (logits, with_specials(logits)):
            check_margin(as_on_a_gpu("margin"), (f, differences, lipschitz))


@pytest.mark.parametrize(
    ("shape", "dtype", "criterion"),
    [
        ((70, 10), torch.float32, 0),
        ((70, 10), torch.bfloat16, 2),
        ((5, 37), torch.float16, 1),
        ((5, 37), torch.bfloat16, 2),
        ((3, 1000), torch.float32, 1),
    ],
)
def test_loss(shape: tuple[int, int], dtype: torch.dtype, criterion: int) -> None:
    with gpu():
        check_loss(as_on_a_gpu("margin_loss"), problem(*shape, dtype), criterion)


@pytest.mark.parametrize("label", [10, -1, 2**40])
@pytest.mark.parametrize("row", [0, 69])
def test_labels_that_are_no_classes_stop_the_process(label: int, row: int) -> None:
    labels = torch.arange(70) % 10
    labels[row] = label
    epsilon, lam = NUMBERS
    with gpu(), pytest.raises(Exception, match="assertFunc"):  # what CUDA calls, and the simulator does not know
        as_on_a_gpu("margin_loss")(*problem(70, 10), epsilon, labels, 0, lam)


@pytest.mark.parametrize(
    ("shape", "dtype", "step"),
    [
        ((70, 10), torch.float32, 0),
        ((70, 10), torch.bfloat16, 1),
        ((600, 3), torch.float16, 1),
        ((5, 37), torch.bfloat16, 2),
        ((3, 1000), torch.bfloat16, 0),
        ((0, 10), torch.float32, 1),
    ],
)
def test_gradients(shape: tuple[int, int], dtype: torch.dtype, step: int) -> None:
    with gpu() as simulated:
        check_gradients(
            as_on_a_gpu("margin_backward"), as_on_a_gpu("margin_loss_backward"), *shape, dtype=dtype, step=step
        )
    assert len(simulated.launches) == 4  # one a call: with and without the gradient of D, of margin and of a loss


@pytest.mark.parametrize("shape", [(128, 10), (8, 200), (4, 1000)])
def test_traffic(shape: tuple[int, int]) -> None:
    """At most 10 % more than every byte once; rows of D count as often as different ones are read.

    Each warp asks for K, epsilon and lambda.
    """
    logits, differences, lipschitz = problem(*shape)
    labels = torch.arange(shape[0]) % shape[1]
    with gpu() as simulated:
        as_on_a_gpu("margin")(logits, differences, lipschitz, NUMBERS[0])
        as_on_a_gpu("margin_loss")(logits, differences, lipschitz, NUMBERS[0], labels, 1, NUMBERS[1])
    for launch in simulated.launches:
        needed = launch.traffic["load_unique_bytes"] + launch.traffic["store_unique_bytes"]
        numbers = 32 * {"margin_rows": 2, "loss_rows": 3}[launch.kernel.metadata.name]
        of_warps = numbers * launch.kernel.metadata.num_warps * launch.grid[0]
        assert launch.bytes_requested - of_warps <= 1.10 * needed


@pytest.mark.parametrize("shape", [(64, 200), (16, 1000)])
def test_traffic_of_gradients(shape: tuple[int, int]) -> None:
    """The same without D, whose programs read the predictions again and again, from cache."""
    arguments = torch.ones(()).expand(shape[0]), torch.empty(shape), torch.ones(shape), torch.ones(shape[0])
    with gpu() as simulated:
        as_on_a_gpu("margin_loss_backward")(*arguments, *saved(*shape), False)
    (launch,) = simulated.launches
    assert launch.bytes_requested <= 1.10 * (launch.traffic["load_unique_bytes"] + launch.traffic["store_unique_bytes"])


def _results(logits: Tensor) -> list[Tensor]:
    """Bottom, prediction, radius and runner-up, to be filled."""
    return [logits.new_empty(len(logits), dtype=dtype) for dtype in (torch.float32, torch.int64) * 2]


@pytest.mark.parametrize(("rows", "classes", "program"), [(64, 10, 30_000_001), (1, 1000, 3_000_001)])
def test_beyond_two_to_the_31_elements(rows: int, classes: int, program: int) -> None:
    """One program far out, with only the memory that it may touch."""
    logits, differences, lipschitz = problem(rows, classes)
    first = program * rows
    assert first * classes > 2**31
    with gpu(edit=far_out(program)) as simulated:
        tiles = RowTiles.of(*logits.shape)
        assert tiles.tile_rows == rows
        cut = {**tiles.constants, "num_warps": tiles.warps, "enable_fp_fusion": False}

        def margin_far_out(*arguments: Any) -> list[Tensor]:
            results = _results(logits)
            simulated.origins = {tensor: first * tensor[0].nbytes for tensor in (logits, *results)}
            margin_kernel.margin_rows[(1,)](*arguments, *results, first + rows, tiles.vectors, **cut)
            return results

        def loss_far_out(*arguments: Any) -> list[Tensor]:
            *inputs, criterion, lam = arguments
            loss, prediction, share_of_bottom, runner_up = _results(logits)
            certified, share = torch.empty(rows, dtype=torch.bool), torch.empty_like(logits)
            results = [loss, prediction, certified, share, share_of_bottom, runner_up]
            simulated.origins = {tensor: first * tensor[0].nbytes for tensor in (logits, inputs[4], *results)}
            loss_kernel.loss_rows[(1,)](*inputs, lam, *results, first + rows, tiles.vectors, CRITERION=criterion, **cut)
            return results

        check_margin(margin_far_out, (logits, differences, lipschitz))
        check_loss(loss_far_out, (logits, differences, lipschitz), 1)


@pytest.mark.parametrize(("rows", "classes", "tile"), [(64, 10, 30_000_001), (1, 1000, 3_000_001)])
def test_gradients_beyond_two_to_the_31_elements(rows: int, classes: int, tile: int) -> None:
    first, share, grad, result = tile * rows, torch.randn(rows, classes), torch.randn(rows), torch.empty(rows, classes)
    prediction, runner_up, *bounds = saved(rows, classes)
    with gpu(edit=far_out(1 + tile)) as simulated:
        tiles = RowTiles.of(*result.shape)
        simulated.origins = {tensor: first * tensor[0].nbytes for tensor in (share, grad, result)}
        gradients_kernel.margin_gradients[(1,)](
            grad, share, torch.empty_like(grad), prediction, runner_up, *bounds, result, *torch.empty(2, 1),
            1, first + rows, tiles.vectors, 0, PAIRS=32, SUMMED=1, **tiles.constants, num_warps=tiles.warps,
            enable_fp_fusion=False,
        )  # fmt: skip
    assert torch.equal(result, grad[:, None] * share)


def test_an_access_out_of_bounds_is_caught() -> None:
    broken = planted("margin", "margin_rows", "(first_row + row < rows) & (column < classes)", "column < classes + row")
    with gpu(), pytest.raises(Exception, match="out of bounds"):
        broken.margin(*problem(5, 37), NUMBERS[0])


def test_a_gradient_out_of_bounds_is_caught() -> None:
    broken = planted("margin", "margin_gradients", "total, column < classes)", "total)")
    prediction, runner_up, *rest = saved(5, 37)
    with gpu(), pytest.raises(Exception, match="out of bounds"):
        broken.margin_backward(torch.ones(5), torch.empty(5, 37), prediction, runner_up, *rest, True)


def test_rows_that_two_programs_write_are_caught() -> None:
    broken = planted("margin", "margin_rows", "program.to(tl.int64) * ROWS", "program.to(tl.int64)")
    assert broken.margin_rows is not margin_kernel.margin_rows
    with gpu(), pytest.raises(AssertionError):
        check_margin(broken.margin, problem(40, 37))
