"""The Triton kernel of the fingerprint, interpreted and as PTX in a simulator: the CPU's bits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gloro_fast.errors import ConfigError
from gloro_fast.native import extension
from gloro_fast.ops import fingerprint

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
Planted = tuple[str, str, str] | None


def bits(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Any bits, NaN and infinities among them."""
    generator = torch.Generator().manual_seed(sum(shape))
    raw = torch.randint(256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def check(call: Any, tensors: list[Tensor], planted: Planted = None) -> None:
    shares = call("fingerprint", "fingerprint_shares", tensors, planted=planted)
    assert shares.dtype == torch.int64
    assert shares.sum(1).tolist() == fingerprint(tensors).tolist()


CASES: dict[str, Callable[[], list[Tensor]]] = {
    "words": lambda: [bits(6, 4), bits(0, 3), bits(5, 7)],
    "types": lambda: [
        bits(9, dtype=torch.float16), bits(3, 3, dtype=torch.bfloat16), bits(5, dtype=torch.float64),
        torch.tensor(7), bits(13, dtype=torch.uint8) > 99, bits(11, dtype=torch.int8),
    ],
    "channels_last": lambda: [
        bits(3, 5, 2, 3).contiguous(memory_format=torch.channels_last),
        bits(4, 6, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last),
    ],
    "strides": lambda: [
        bits(4, 6).T, bits(8, 9)[1::2, ::3], bits(5, 1).expand(5, 3), bits(2, 3, 4, 5, 2).permute(3, 0, 4, 2, 1),
    ],
    "offsets": lambda: [
        bits(33)[1:], bits(40, dtype=torch.float16)[3:], bits(30, dtype=torch.uint8)[5:], bits(31)[1:-1],
    ],
    "complex": lambda: [
        bits(3, 4, dtype=torch.complex64).T, bits(5, dtype=torch.complex128), bits(5, dtype=torch.complex64)[1:],
        bits(4, 3, dtype=torch.complex128)[:, 1:],
    ],
    "one of many blocks": lambda: [bits(2 * 64 * 1024 * 2 + 4099)],
    "one of many blocks of halves": lambda: [bits(65 * 4096 + 3, dtype=torch.float16)],
    "many blocks, strided": lambda: [bits(67, 2049).T],
}  # fmt: skip


@pytest.mark.parametrize("tensors", CASES.values(), ids=CASES)
def test_it_has_the_bits_of_the_cpu(call: Any, tensors: Callable[[], list[Tensor]]) -> None:
    check(call, tensors())


def test_one_changed_bit_changes_the_hash_of_its_tensor_alone(call: Any) -> None:
    tensors = [bits(5, 3), bits(4, 2).T]
    before = call("fingerprint", "fingerprint_shares", tensors).sum(1)
    tensors[1].view(torch.int32)[1, 2] ^= 1 << 20
    after = call("fingerprint", "fingerprint_shares", tensors).sum(1)
    assert (before == after).tolist() == [True, False]


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        ("words", "(place + 1)", "place"),
        ("words", "tl.where(place < words, ", "tl.where(place <= words, "),
        ("words", "(mixed >> 29)", "(mixed.to(tl.int64) >> 29).to(tl.uint64)"),
        ("types", "tl.uint8, 1)", "tl.int8, 1)"),
        ("channels_last", "rest = rest // size", "rest = rest"),
        ("strides", "for size, stride in reversed(dimensions)", "for size, stride in dimensions"),
        ("strides", "stride == merged[-1][0] * merged[-1][1]", "stride >= merged[-1][0] * merged[-1][1]"),
        ("offsets", "math.gcd(8, address, count * unit)", "8"),
        ("complex", "2 * stride", "stride"),
        ("one of many blocks", "SHARES * BLOCK):", "SHARES * BLOCK + 1):"),
        ("one of many blocks", "words = (count * unit + 7) // 8", "words = tl.minimum((count * unit + 7) // 8, 65536)"),
    ],
)  # fmt: skip
def test_a_planted_bug_is_caught(interpreter: Any, case: str, old: str, new: str) -> None:
    with pytest.raises(AssertionError, match="=="):
        check(interpreter.call, CASES[case](), ("fingerprint", old, new))


def test_an_access_beyond_a_tensor_is_seen() -> None:
    simulated_gpu = pytest.importorskip("simulated_gpu")
    if not simulated_gpu.SIMULATOR:
        pytest.skip("needs a PTX simulator: set GLORO_FAST_PTX_SIM to a folder with ptx_sim.py")
    planted = ("fingerprint", "inside = index < count", "inside = index <= count")
    with pytest.raises(Exception, match="out of bounds"):
        check(simulated_gpu.call, [bits(5, dtype=torch.float16)], planted)


class TestTable:
    """Of addresses, on the device."""

    def test_it_is_made_once(self) -> None:
        kernels = pytest.importorskip("gloro_fast.kernels.fingerprint")
        place = ((64, torch.Size([3]), (1,), torch.float32),)
        table = kernels._table(place, torch.device("cpu"))
        assert kernels._table(place, torch.device("cpu")) is table
        moved = ((68, *place[0][1:]),)
        assert kernels._table(moved, torch.device("cpu")).tolist() == [[68, 3, 4, 1, 3, 1]]

    def test_none_is_made_while_a_graph_is_captured_and_those_used_there_stay(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kernels = pytest.importorskip("gloro_fast.kernels.fingerprint")
        simulated_gpu = pytest.importorskip("simulated_gpu")
        weight, other = bits(3), bits(4)
        with simulated_gpu.gpu(run=False):
            kernels.fingerprint_shares([weight])
            monkeypatch.setattr("gloro_fast.ops.capturing.is_capturing", lambda device: True)
            monkeypatch.setattr(kernels, "_kept", {})
            kernels.fingerprint_shares([weight])
            with pytest.raises(ConfigError, match="certify once before capturing"):
                kernels.fingerprint_shares([other])
        (table,) = kernels._kept.values()
        assert table[0, 0] == weight.data_ptr()


def test_what_a_captured_graph_makes_is_hashed_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["gloro_fast.ops.fingerprint_op"]
    monkeypatch.setattr(module, "_runs_on_gpu", bool)
    weight = bits(3, 5).T
    with pytest.raises(NotImplementedError, match="fingerprint_shares"):  # which is for GPUs
        module._untraced([weight])
    monkeypatch.setattr(module, "is_capturing", lambda device: True)
    assert torch.equal(module._untraced([weight]), fingerprint([weight]))


def test_tensors_of_two_devices_are_refused() -> None:
    kernels = pytest.importorskip("gloro_fast.kernels.fingerprint")
    with pytest.raises(RuntimeError, match="tensors are on cpu, meta"):
        kernels.fingerprint_shares([torch.ones(2), torch.ones(2, device="meta")])
