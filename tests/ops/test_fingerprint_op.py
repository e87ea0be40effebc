"""The hash of bits: what changes it, and the compiled form against the reference, bit by bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gloro_fast.native import extension
from gloro_fast.ops import fingerprint, fingerprint_reference
from gloro_fast.ops.fingerprint_op import _CHUNK

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.fixture(params=["avx512", "portable"])
def _simd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLORO_FAST_SIMD", request.param)


@pytest.fixture
def _two_threads() -> None:
    torch.set_num_threads(2)


def hash_of(tensor: Tensor) -> int:
    return int(fingerprint_reference([tensor]))


def random_bits(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    return torch.randint(256, (*shape, dtype.itemsize), dtype=torch.uint8).view(dtype).reshape(shape)


class TestReference:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (_CHUNK + 3,)])
    def test_any_element_changes_the_hash(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        tensor = torch.zeros(shape, dtype=dtype)
        before = hash_of(tensor)
        for index in {0, tensor.numel() // 2, tensor.numel() - 1}:
            changed = tensor.clone()
            changed.view(-1)[index] = 1
            assert hash_of(changed) != before

    def test_every_single_bit_changes_the_hash(self) -> None:
        bits = torch.ones(10).view(torch.int32)
        hashes = {hash_of(bits)}
        for place in range(10):
            for bit in range(32):
                changed = bits.clone()
                changed[place] ^= 1 << bit if bit < 31 else -(1 << 31)
                hashes.add(hash_of(changed))
        assert len(hashes) == 321

    def test_no_two_words_mix_to_the_same(self) -> None:
        # A shift that copies the sign makes x and -1 - x the same; here x is the word together with its place.
        words = torch.randint(-(2**63), 2**63 - 1, (100,))
        step = -7046029254386353131
        for word in words.tolist():
            other = (-1 - word - 2 * step + 2**63) % 2**64 - 2**63
            assert hash_of(torch.tensor([word])) != hash_of(torch.tensor([other]))

    def test_order_matters(self) -> None:
        assert hash_of(torch.tensor([1.0, 2.0])) != hash_of(torch.tensor([2.0, 1.0]))
        # The same value on either side of a chunk's border.
        a, b = torch.zeros(4 * _CHUNK), torch.zeros(4 * _CHUNK)
        a[0], b[2 * _CHUNK] = 1, 1
        assert hash_of(a) != hash_of(b)

    def test_few_collisions_among_small_changes(self) -> None:
        grid = torch.cartesian_prod(*[torch.arange(12.0)] * 3)
        assert fingerprint_reference(list(grid)).unique().numel() == 12**3

    @pytest.mark.parametrize("bit", [0, 23, 31, 32, 63])
    def test_changes_of_two_words_do_not_cancel(self, bit: int) -> None:
        """The change that one flipped bit makes differs from word to word, in either half of the hash."""
        count = 400
        flip = 1 << bit if bit < 63 else -(1 << 63)
        words = torch.zeros(count, dtype=torch.int64)
        flipped = words + (torch.eye(count, dtype=torch.int64) * flip)
        changes = fingerprint_reference(list(flipped)) - hash_of(words)
        assert changes.unique().numel() == count
        for half in (changes & 0xFFFFFFFF, (changes >> 32) & 0xFFFFFFFF):
            assert half.unique().numel() >= count - 1

    def test_where_nothing_is_compiled_a_graph_has_it_as_one_op(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extension, "available", lambda: False)
        monkeypatch.setattr(extension, "warn_if_missing", lambda: None)
        torch.compiler.reset()
        memory = torch.randn(90)
        tensors = [torch.nn.Parameter(memory), memory[1:5], memory[1:8].bfloat16(), memory[5:].view(17, 5).t()]
        traced = torch.compile(fingerprint, fullgraph=True, backend="aot_eager")
        assert torch.equal(traced(tensors), fingerprint_reference(tensors))
        torch.library.opcheck(torch.ops.gloro_fast.fingerprint_reference, (tensors,))

    def test_no_tensors(self) -> None:
        assert fingerprint([]).shape == (0,)
        assert fingerprint([]).dtype == torch.int64


@compiled
@pytest.mark.usefixtures("_simd", "_two_threads")
class TestCompiled:
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.complex64])
    def test_same_value_as_the_reference(self, dtype: torch.dtype) -> None:
        shapes = [(), (0,), (1,), (7,), (8,), (9, 3), (2, 3, 5, 7), (64,), (40_001,)]
        tensors = [random_bits(shape, dtype) for shape in shapes]
        assert torch.equal(fingerprint(tensors), fingerprint_reference(tensors))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 70_000), st.integers(0, 9)), min_size=1, max_size=5), st.integers(0, 99))
    def test_any_lengths_and_alignments(self, cuts: list[tuple[int, int]], seed: int) -> None:
        memory = torch.randint(256, (70_010,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        tensors = [memory[offset : offset + length] for length, offset in cuts]
        assert torch.equal(fingerprint(tensors), fingerprint_reference(tensors))

    def test_strides_are_no_change(self) -> None:
        x = torch.randn(6, 5, 3, 3)
        wide = torch.randn(6, 10)
        tensors = [x, x.to(memory_format=torch.channels_last), x.permute(1, 0, 3, 2), wide[:, ::2], wide[1:2, 3:9]]
        assert torch.equal(fingerprint(tensors), fingerprint_reference(tensors))
        assert fingerprint(tensors[:1]) == fingerprint(tensors[1:2])

    def test_parameters_are_read_without_a_graph(self) -> None:
        weight = torch.nn.Parameter(torch.randn(3))
        assert not fingerprint([weight]).requires_grad

    def test_opcheck(self) -> None:
        torch.library.opcheck(torch.ops.gloro_fast.fingerprint, ([torch.randn(3), torch.zeros(2, 2).t()],))


@compiled
def test_same_value_at_every_number_of_threads() -> None:
    tensors = [torch.randn(100_003), torch.randn(17)]
    values = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        values.append(fingerprint(tensors))
    assert torch.equal(*values)
