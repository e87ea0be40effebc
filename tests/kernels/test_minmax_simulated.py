"""The PTX that Triton generates for minmax, run in a simulator that sees races and accesses out of bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minmax_checks import channels_last, check, same_bits, values
from planting import planted
from torch import Tensor

from gloro_fast.native import extension

pytest.importorskip("triton")
from gloro_fast.kernels import launch_table, minmax, minmax_tiles
from gloro_fast.kernels.launch_table import Entry
from simulated_gpu import far_out, gpu, needs_simulator

pytestmark = [
    needs_simulator,
    pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ODD_SHAPES = [
    (2, 4, 5, 7),
    (3, 2, 6, 6),
    (1, 4, 9, 31),  # rows longer than a tile
]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulating takes time: the same kernels with an eighth of the work a thread, few programs."""
    monkeypatch.setattr(minmax_tiles, "entry_of_current_device", lambda: Entry(tile_bytes=1024, warps=1, programs=2))


@pytest.mark.usefixtures("small_tiles")
class TestOddShapes:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", ODD_SHAPES)
    def test_planar(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        with gpu():
            check(minmax, values(shape, dtype), with_bias=True)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(2, 6, 5, 7), (7, 8, 9, 1), (3, 10), (17, 64), (3, 34)])
    def test_interleaved(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        x = values(shape, dtype)
        with gpu():
            check(minmax, channels_last(x) if x.dim() == 4 else x, with_bias=True)

    @pytest.mark.parametrize("to_format", [torch.Tensor.contiguous, channels_last])
    def test_without_bias(self, to_format: Any) -> None:
        with gpu():
            check(minmax, to_format(values((2, 4, 5, 7), torch.float32)), with_bias=False)


class TestLargeTensors:
    """Beyond 2^31 elements: one program far out, with only the memory that it may touch."""

    LENGTH = 64
    PROGRAM = 3_000_001

    def test_planar(self) -> None:
        rows, tile_rows = 2**27, 16
        first = self.PROGRAM * tile_rows
        x = values((tile_rows, 2, self.LENGTH), torch.float32)
        y, mask = torch.empty_like(x), torch.empty(tile_rows, self.LENGTH // 8, dtype=torch.uint8)
        assert first * 2 * self.LENGTH > 2**31
        with gpu(edit=far_out(self.PROGRAM)) as simulated:
            simulated.origins = {x: first * 2 * self.LENGTH * 4, y: first * 2 * self.LENGTH * 4, mask: first * 8}
            minmax.planar_forward[(1,)](
                x, None, y, mask, rows, 64, 1,
                HAS_BIAS=False, IN_PLACE=False, VECTOR=64, ROWS=tile_rows, COLUMNS=64, TABLE=128, num_warps=1,
            )  # fmt: skip
        self._check(x, y, mask)

    @staticmethod
    def _check(x: Tensor, y: Tensor, mask: Tensor) -> None:
        expected, swap = torch.ops.gloro_fast.minmax(x, None)
        same_bits(y, expected)
        assert torch.equal(mask, swap.reshape(mask.shape))

    def test_interleaved(self) -> None:
        pairs = 512
        first = self.PROGRAM * pairs
        x = values((pairs, 2), torch.float32)
        y, mask = torch.empty_like(x), torch.empty(pairs // 8, dtype=torch.uint8)
        assert first * 2 > 2**31
        with gpu(edit=far_out(self.PROGRAM)) as simulated:
            simulated.origins = {x: first * 8, y: first * 8, mask: first // 8}
            minmax.interleaved_forward[(1,)](
                x, None, y, mask, (first + pairs) // 128, 2,
                HAS_BIAS=False, IN_PLACE=False, VECTOR=128, PAIRS=pairs, STRIDE=pairs, FOLD=1024, num_warps=1,
            )  # fmt: skip
        self._check(x, y, mask)

    def test_planar_backward(self) -> None:
        rows, tile_rows = 2**27, 16
        first = self.PROGRAM * 2 * tile_rows
        grad_y = torch.randn(2 * tile_rows, 2, self.LENGTH)
        mask = torch.ops.gloro_fast.minmax(torch.randn_like(grad_y), None)[1]
        grad_x, sums = torch.empty_like(grad_y), torch.empty(2 * tile_rows, 2)
        assert first * 2 * self.LENGTH > 2**31
        with gpu(edit=far_out(self.PROGRAM)) as simulated:
            start = first * 2 * self.LENGTH * 4
            simulated.origins = {grad_y: start, grad_x: start, mask: first * 8, sums: first * 8}
            minmax.planar_backward[(1,)](
                grad_y, mask, grad_x, sums, rows, 1,
                HAS_SUMS=True, VECTOR=64, ROWS=tile_rows, COLUMNS=64, num_warps=1,
            )  # fmt: skip
        assert torch.equal(grad_x, torch.ops.gloro_fast.minmax_backward(grad_y, mask, False)[0])
        torch.testing.assert_close(sums, grad_x.sum(2), rtol=1e-5, atol=1e-5)

    def test_interleaved_backward(self) -> None:
        pairs = 512
        first = self.PROGRAM * pairs
        grad_y = torch.randn(pairs, 2)
        mask = torch.ops.gloro_fast.minmax(torch.randn_like(grad_y), None)[1]
        grad_x = torch.empty_like(grad_y)
        assert first * 2 > 2**31
        with gpu(edit=far_out(self.PROGRAM)) as simulated:
            simulated.origins = {grad_y: first * 8, grad_x: first * 8, mask: first // 8}
            minmax.interleaved_backward[(1,)](
                grad_y, mask, grad_x, None, (first + pairs) // 128,
                HAS_SUMS=False, VECTOR=128, PAIRS=pairs, STRIDE=pairs, FOLD=1024, num_warps=1,
            )  # fmt: skip
        assert torch.equal(grad_x, torch.ops.gloro_fast.minmax_backward(grad_y, mask, False)[0])


def bytes_needed(launch: Any, *tensors: Tensor) -> float:
    """Bytes in the sectors that its requests ask for over the bytes of what it must read and write."""
    return launch.bytes_requested / sum(t.numel() * t.itemsize for t in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("to_format", [torch.Tensor.contiguous, channels_last])
def test_traffic(monkeypatch: pytest.MonkeyPatch, to_format: Any, dtype: torch.dtype) -> None:
    """At most 5 % more than every byte once, with the tiles of the real table, in four steps where there are steps."""
    entry = launch_table._TABLE[86]
    size = entry.tile_bytes // dtype.itemsize
    x = to_format(torch.randn(size * 8 // 16 // 32 // 32, 16, 32, 32).to(dtype))
    monkeypatch.setattr(
        minmax_tiles, "entry_of_current_device", lambda: Entry(entry.tile_bytes, entry.warps, programs=2)
    )
    bias = torch.randn(16).to(dtype)
    with gpu() as simulated:
        y, mask = minmax.minmax(x, bias)
        grad_x, grad_bias = minmax.minmax_backward(y, mask, True)
    forward, backward = simulated.launches
    assert forward.kernel.metadata.num_warps == entry.warps
    assert bytes_needed(forward, x, bias, y, mask) <= 1.05
    # The sums of the programs, which a second launch reads once, count as overhead.
    sums = backward.traffic["store_unique_bytes"] - x.numel() * x.itemsize
    assert bytes_needed(backward, y, mask, grad_x, grad_bias) + sums / (2 * x.numel() * x.itemsize) <= 1.05


@pytest.mark.usefixtures("small_tiles")
def test_an_access_out_of_bounds_is_caught() -> None:
    broken = planted(
        "minmax", "minmax", "(row < rows)[:, None] & (column < length)[None, :]", "(row < rows)[:, None] & True"
    )
    with gpu(), pytest.raises(Exception, match="out of bounds"):
        check(broken, values((3, 2, 3, 3), torch.float32), with_bias=True)


@pytest.mark.usefixtures("small_tiles")
def test_a_race_is_caught() -> None:
    broken = planted("minmax", "minmax", "block * rows + tile_row", "tile_row")
    grad_y = torch.randn(1, 2, 33, 33)
    with gpu(), pytest.raises(Exception, match=r"race|different values to one address"):
        broken.minmax_backward(grad_y, torch.ops.gloro_fast.minmax(grad_y)[1], True)
