from __future__ import annotations

import pytest
import torch

from benchmarks.networks import NETWORKS
from benchmarks.roofline import minmax
from benchmarks.roofline.__main__ import main
from benchmarks.roofline.bound import print_bound
from benchmarks.roofline.power_iteration_model import rows
from benchmarks.roofline.work import CARDS, LAUNCH_MICROSECONDS, Card, Work


def test_memory_bound_arithmetic_bound_and_launch_bound() -> None:
    card = Card("card", bandwidth=1000, float32=10)
    assert Work("op", "case", 0, bytes_moved=10**9).microseconds(card) == pytest.approx(1000)
    assert Work("op", "case", 0, bytes_moved=10**6, flops=10**10).microseconds(card) == pytest.approx(1000)
    assert Work("op", "case", 4, bytes_moved=0).microseconds(card) == pytest.approx(4 * LAUNCH_MICROSECONDS)


def test_the_activations_of_a_network() -> None:
    shapes = minmax.activation_shapes(NETWORKS["2C2F"])
    assert [len(shape) for shape in shapes] == [4, 4, 2]
    assert all(shape[0] == 512 for shape in shapes)


def test_minmax_moves_every_byte_once() -> None:
    elements = sum(torch.Size(shape).numel() for shape in minmax.activation_shapes(NETWORKS["2C2F"]))
    forward = next(w for w in minmax.work() if w.op == "minmax forward" and w.case.startswith("2C2F"))
    assert 8 * elements + elements // 16 <= forward.bytes_moved <= 1.001 * (8 * elements + elements // 16)


def test_it_is_called_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert "ESTIMATE" in printed
    for card in CARDS:
        assert card.name in printed
    assert printed.count("minmax") == 2 * 2 * len(NETWORKS)


def test_the_bound_stands_beside_the_launches_of_the_eager_loop(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gloro_fast._build_info")
    print_bound()
    printed = capsys.readouterr().out
    assert "ESTIMATE" in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    assert rows[0][:3] == ["network", "eager launches", "eager loop"]
    assert rows[0][3:] == ["RTX 3080", "RTX 4090", "RTX 5090", "A100", "H100"]
    assert [row[0] for row in rows[2:]] == [network.name for network in NETWORKS.values()]
    for _, launches, eager, *planned in rows[2:]:
        assert int(eager) == 5 * int(launches)  # microseconds
        assert all(3 * 5 < int(microseconds) < int(eager) for microseconds in planned)


def test_the_cost_model_expects_less_than_an_h100_measured_of_earlier_kernels() -> None:
    pytest.importorskip("gloro_fast._build_info")
    figures = list(rows())
    assert len(figures) >= 10
    for row in figures:
        assert row.measured / 20 < row.predicted < row.measured, row
