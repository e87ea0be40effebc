"""How much each op launches on a GPU, and that nothing waits for it: host code on fake CUDA tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from gloro_fast import ops
from gloro_fast.graph.composition import Composition, Join, Product
from gloro_fast.native import dispatch, extension
from gloro_fast.ops.certify import certify_logits
from gloro_fast.ops.image_codes import image_codes as image_codes_op
from gloro_fast.ops.product import product
from gloro_fast.ops.statistics import count, record_
from gloro_fast.ops.verdict import verdict as ops_verdict

pytest.importorskip("triton")
from gloro_fast.kernels import fingerprint, head_differences, image_codes, minmax, statistics, verdict
from gloro_fast.kernels import product as product_kernel
from launches import launches
from simulated_gpu import gpu

pytestmark = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


def on_gpu(
    *shape: int, dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda", memory_format=memory_format)


def counts() -> Tensor:
    labels = on_gpu(512, dtype=torch.int64)
    return statistics.count(labels, labels, on_gpu(512, dtype=torch.bool))


def record() -> None:
    scalars = (on_gpu(dtype=dtype) for dtype in (torch.float32, torch.int64, torch.int64, torch.float32))
    statistics.record_(on_gpu(9, 4, dtype=torch.float64), on_gpu(1, dtype=torch.int64), *scalars)


def signed() -> None:
    codes, shares = on_gpu(500, dtype=torch.uint8), on_gpu(8, fingerprint.SHARES, dtype=torch.int64)
    bound = on_gpu(10, 10, dtype=torch.float64)
    verdict.verdict(on_gpu(500, 10), bound, 1.3, 0.3, codes, shares, on_gpu(8, dtype=torch.int64))


def certified() -> None:
    verdict.certify(on_gpu(500, 10, dtype=torch.bfloat16), on_gpu(10, 10, dtype=torch.float64), 1.3, 0.3)


@pytest.mark.parametrize(
    ("call", "kernels", "operations"),
    [
        (lambda: product(on_gpu(6)), [], ["prod"]),
        (lambda: product_kernel.product_backward(on_gpu(), on_gpu(6)), ["product_gradient"], []),
        (lambda: head_differences.head_differences(on_gpu(10, 512)), ["pair_distances"], []),
        (
            lambda: head_differences.head_differences_backward(on_gpu(10, 10), on_gpu(10, 512), on_gpu(10, 10)),
            ["rows_gradient"],
            [],
        ),
        (counts, ["count_images"], []),
        (record, ["record_row"], []),
        (lambda: minmax.minmax(on_gpu(64, 8, 6, 6), on_gpu(8)), ["planar_forward"], []),
        (
            lambda: minmax.minmax_backward(on_gpu(64, 8), on_gpu(32, dtype=torch.uint8), True),
            ["interleaved_backward"],
            ["sum"],
        ),
        (signed, ["verdict_rows"], []),
        (certified, ["verdict_rows"], []),
        (lambda: image_codes.image_codes(on_gpu(500, 1, 28, 28)), ["look_at_images"], []),
        (
            lambda: image_codes.image_codes(on_gpu(500, 3, 32, 32, memory_format=torch.channels_last)),
            ["look_at_images"],
            [],
        ),
    ],
    ids=[
        "product", "its_gradient", "head_differences", "their_gradient", "count", "record_", "minmax", "its_gradient_2",
        "verdict", "certify", "image_codes", "image_codes_channels_last",
    ],
)  # fmt: skip
def test_launches(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], kernels: list[str], operations: list[str]
) -> None:
    with gpu(run=False), launches(monkeypatch) as counted:
        call()
    assert (counted.kernels, counted.operations, counted.waits) == (kernels, operations, [])


def test_a_fingerprint_waits_only_for_addresses_that_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTensor, "data_ptr", lambda tensor: 64, raising=False)
    fingerprint._table.cache_clear()
    with gpu(run=False), launches(monkeypatch) as counted:
        weights = [on_gpu(16, 3, 3, 3, memory_format=torch.channels_last), on_gpu(10, 512), on_gpu(10)]
        fingerprint.fingerprint_shares(weights)
        assert counted.waits
        counted.kernels, counted.operations, counted.waits = [], [], []
        fingerprint.fingerprint_shares(weights)
    fingerprint._table.cache_clear()
    assert (counted.kernels, counted.operations, counted.waits) == (["hash_tensors"], [], [])


def test_ops_take_the_kernels_for_tensors_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher's own: a call of the op, in place of which a GPU launches what is counted above."""
    monkeypatch.setattr(dispatch, "runs", lambda op: True)
    with launches(monkeypatch) as counted:
        torch.ops.gloro_fast.product_backward(on_gpu(), on_gpu(6))
        count(*(on_gpu(9, dtype=dtype) for dtype in (torch.int64, torch.int64, torch.bool)))
        row = [on_gpu(dtype=dtype) for dtype in (torch.float32, torch.int64, torch.int64, torch.float32)]
        record_(on_gpu(9, 4, dtype=torch.float64), on_gpu(1, dtype=torch.int64), *row)
        assert torch.ops.gloro_fast.head_differences(on_gpu(10, 7, dtype=torch.bfloat16)).dtype == torch.float32
        bounds = on_gpu(10, 10, dtype=torch.float64)
        shares = ops.fingerprint_shares([on_gpu(3), on_gpu(2)])
        assert shares.shape == (2, fingerprint.SHARES)
        codes = image_codes_op(on_gpu(5, 3))
        ops_verdict(on_gpu(5, 10), bounds, 1.3, 0.3, codes, shares, on_gpu(2, dtype=torch.int64))
        certify_logits(on_gpu(5, 10), bounds, 1.3, 0.3)
    assert counted.operations == [
        "product_backward", "count", "record_", "head_differences", "fingerprint_shares", "image_codes", "verdict",
        "certify",
    ]  # fmt: skip


def test_the_constant_of_a_graph_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of branches that are added, branches side by side, and numbers among the constants."""
    steps = (
        Product(0, (0, 1)),
        Product(1, (2, 4)),
        Join((1, 2), (1.0, 0.5), stacked=False),
        Join((0, 3), (1.0, 1.0), stacked=True),
        Product(4, (3,)),
    )
    composition = Composition((), steps, ())
    with launches(monkeypatch) as counted:
        constant = composition.estimate([1.0, 0.25, on_gpu(), 1.0, 1.0], [0, 3, 4], on_gpu(3))
        assert constant.is_cuda
        numbers = Composition((), (Product(0, (0,)),), ()).estimate([0.5], [], on_gpu(0))
        assert numbers.is_cuda
    assert counted.waits == []
    with launches(monkeypatch) as counted:
        Composition((), (Product(0, (0, 1, 2)),), ()).estimate([1.0] * 3, [0, 2], on_gpu(2))
    assert counted.operations == ["prod"]


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + torch.ones(3),
        lambda x: x.new_tensor([1.0, 2.0, 3.0]),
        lambda x: torch.ones(3).to(x.device),
    ],
    ids=["nonzero", "item", "mask", "host", "numbers", "copy"],
)
def test_what_waits_is_seen(monkeypatch: pytest.MonkeyPatch, waits: Callable[[Tensor], Any]) -> None:
    """Or, where torch was built without CUDA, refused by it."""
    seen: list[str] = []
    with launches(monkeypatch) as counted:
        try:
            waits(on_gpu(3))
        except Exception as error:  # of one kind or another: a fake tensor cannot do it
            seen = [str(error)] if "not linked with support for cuda" in str(error) else []
    assert counted.waits + seen
