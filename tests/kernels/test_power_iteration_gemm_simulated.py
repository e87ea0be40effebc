"""The PTX of convolutions on tensor cores, run in a simulator: values, races, traffic, whatever it asks of `mma`."""

from __future__ import annotations

import pytest
import torch
from device_checks import WIDE, assert_agrees_on_tensor_cores, draw
from device_program import TENSOR, Card
from power_iteration_layers import Layer, conv, dense
from predicted_traffic import forward_traffic, gradient_traffic
from simulated_gpu import needs_simulator
from test_power_iteration_simulated import Simulated, moved

pytestmark = needs_simulator

LARGE = Card(2, 228 << 10, 227 << 10, 1 << 10, 9, 0, TENSOR)
SMALL = Card(2, cores=TENSOR)
ODD = [name for name in WIDE if name not in ("many channels", "one pixel")]


@pytest.mark.parametrize("name", ODD)
def test_odd_shapes_without_a_race(name: str) -> None:
    network = draw([WIDE[name]])
    simulated = Simulated(network, 1, SMALL)
    assert simulated.plan.wide
    assert simulated.gradient_plan.wide
    assert_agrees_on_tensor_cores(simulated.outcome, network, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_beside_other_layers(dtype: torch.dtype) -> None:
    network = draw([WIDE["3 x 3"], dense(20, 72), conv((7,), (4, 6), 3, groups=2)], dtype)
    simulated = Simulated(network, 1, LARGE)
    assert [layer["wide"] for layer in sorted(simulated.plan.layers(), key=lambda layer: layer["layer"])] == [
        True,
        False,
        False,
    ]
    assert_agrees_on_tensor_cores(simulated.outcome, network, 1)


@pytest.mark.parametrize(
    "layer",
    [conv((16, 16), (64, 64), 3, padding=(1, 1)), conv((13, 12), (40, 48), 4, 2, (1, 1))],
    ids=["3 x 3", "4 x 4 by 2"],
)
def test_convolutions_move_what_their_tiles_say(layer: Layer) -> None:
    network = draw([layer])
    simulated = Simulated(network, 1, LARGE)
    assert_agrees_on_tensor_cores(simulated.outcome, network, 1)
    for name, launch, predicted in (
        ("forward", simulated.forward, forward_traffic(layer, *simulated.plan.layers(), 1)),
        ("backward", simulated.backward, gradient_traffic(layer, *simulated.gradient_plan.layers())),
    ):
        print(f"{name}: {moved(launch)} bytes, {predicted:.0f} predicted")
        assert abs(moved(launch) / predicted - 1) <= 0.05


def test_lanes_meet_no_bank_twice() -> None:
    """Of 16-byte loads, for a tile as wide as the picture; pixels that lie in two rows may meet."""
    network = draw([conv((8, 8), (64, 64), 3, padding=(1, 1))])
    simulated = Simulated(network, 1, LARGE)
    for launch in (simulated.forward, simulated.backward):
        loads, met = launch.wide_loads
        print(f"{met} of {loads} loads by eight lanes meet a bank twice")
        assert loads > 0
        assert met <= 0.02 * loads
