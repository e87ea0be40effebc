"""The launch planner of the batched power iteration: it runs anywhere, with cards that are not there."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from device_program import PLAIN, TENSOR, Card
from power_iteration_layers import conv, of_network

from gloro_fast.ops import Geometry
from gloro_fast.ops.power_iteration_op import layer_numbers

if importlib.util.find_spec("gloro_fast._build_info") is None:
    pytest.skip("the module with the planner was not built: no Python headers", allow_module_level=True)

from gloro_fast import _build_info as planner

# Multiprocessors, shared memory of one and of a block's most, compute capability.
CARDS = {
    "RTX 3080": Card(68, 100 << 10, 99 << 10, 1 << 10, 8, 6),
    "RTX 4090": Card(128, 100 << 10, 99 << 10, 1 << 10, 8, 9),
    "RTX 5090": Card(170, 100 << 10, 99 << 10, 1 << 10, 12, 0),
    "A100": Card(108, 164 << 10, 163 << 10, 1 << 10, 8, 0),
    "H100": Card(132, 228 << 10, 227 << 10, 1 << 10, 9, 0),
}
NETWORKS = {"2C2F": (1, 28, 28), "4C3F": (1, 28, 28), "6C2F": (3, 32, 32), "8C2F": (3, 64, 64)}


def numbers_of(name: str) -> list[int]:
    layers = of_network(name, NETWORKS[name])
    return layer_numbers([torch.empty(shape) for shape, _ in layers], [geometry for _, geometry in layers])


def dense_layers(count: int) -> list[int]:
    return layer_numbers([torch.empty(64, 64)] * count, [Geometry((64,))] * count)


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
@pytest.mark.parametrize("name", NETWORKS)
def test_every_plan_is_resident_at_once(name: str, card: Card) -> None:
    (plan,) = planner.plan_power_iteration(numbers_of(name), card)
    assert plan.blocks_per_multiprocessor <= planner.BLOCKS_PER_MULTIPROCESSOR
    assert plan.blocks <= card.multiprocessors * plan.blocks_per_multiprocessor
    assert plan.shared_bytes <= card.shared_bytes_per_block
    on_one = plan.blocks_per_multiprocessor * (plan.shared_bytes + card.reserved_bytes_per_block)
    assert on_one <= card.shared_bytes


@pytest.mark.parametrize("multiprocessors", [1, 2, 3, 9, 200])
@pytest.mark.parametrize("network", ["1", "90", "6C2F"])
def test_layers_share_no_block_or_all_of_them(network: str, multiprocessors: int) -> None:
    """Blocks that wait for each other go through the same layers, so that none waits for ever."""
    numbers = dense_layers(int(network)) if network.isdecimal() else numbers_of(network)
    (plan,) = planner.plan_power_iteration(numbers, Card(multiprocessors))
    assert plan.blocks <= 2 * multiprocessors
    layers = plan.layers()
    assert sorted(layer["layer"] for layer in layers) == list(range(len(layers)))
    ranges = {(layer["first_block"], layer["blocks"]) for layer in layers}
    taken = sorted(block for first, count in ranges for block in range(first, first + count))
    assert taken == list(range(plan.blocks))


def test_blocks_go_to_the_layers_with_the_most_work() -> None:
    (plan,) = planner.plan_power_iteration(numbers_of("6C2F"), CARDS["RTX 3080"])
    blocks = {layer["layer"]: layer["blocks"] for layer in plan.layers()}
    # 32 -> 32 channels at 32 x 32 against 3 -> 32 there, and the dense layer of 512 x 4096.
    assert blocks[1] > blocks[0]
    assert blocks[6] > blocks[0]


def test_more_blocks_are_never_slower() -> None:
    times = [planner.plan_power_iteration(numbers_of("6C2F"), Card(count))[0].microseconds for count in (1, 4, 16, 64)]
    assert times == sorted(times, reverse=True)


def test_more_layers_than_fit_take_several_launches() -> None:
    plans = planner.plan_power_iteration(dense_layers(planner.MOST_LAYERS + 1), CARDS["H100"])
    assert [len(plan.layers()) for plan in plans] == [planner.MOST_LAYERS, 1]


@pytest.mark.parametrize("count", [1, 97, 250])
def test_one_launch_each_way(count: int) -> None:
    launches = -(-count // planner.MOST_LAYERS)
    assert len(planner.plan_power_iteration(dense_layers(count), CARDS["A100"])) == launches
    assert len(planner.plan_gradient(dense_layers(count), CARDS["A100"])) == launches


class TestWhatTheDriverSays:
    """The plan is folded onto what the driver holds at once, and given up where it refuses."""

    CARD = CARDS["RTX 3080"]._replace(cores=PLAIN)  # two blocks a multiprocessor

    def fit(self, held: int, refusal: str = "", cooperative: bool = True) -> tuple[list[object], list[tuple[int, int]]]:
        tried: list[tuple[int, int]] = []

        def try_launch(blocks: int, shared_bytes: int) -> str:
            tried.append((blocks, shared_bytes))
            return refusal

        return planner.fit_power_iteration(
            numbers_of("8C2F"), self.CARD, lambda shared: held, try_launch, cooperative
        ), tried

    @pytest.mark.parametrize("held", [1, 2, 3])
    def test_the_plan_fits_what_is_held(self, held: int) -> None:
        (plan,), tried = self.fit(held)
        assert plan.blocks <= held * self.CARD.multiprocessors
        assert tried == [(plan.blocks, plan.shared_bytes)]
        (planned,) = planner.plan_power_iteration(numbers_of("8C2F"), self.CARD)
        assert (plan.blocks == planned.blocks) == (held > 1)
        assert (plan.layers() == planned.layers()) == (held > 1)

    def test_the_driver_is_asked_of_every_launch_and_again_after_folding(self) -> None:
        asked: list[int] = []

        def held(shared_bytes: int) -> int:
            asked.append(shared_bytes)
            return 2 if len(asked) == 1 else 1

        plans = planner.fit_power_iteration(dense_layers(97), Card(3), held, lambda *_: "")
        assert len(plans) == 2
        assert all(plan.blocks <= 3 for plan in plans)
        assert len(asked) == 4

    def test_no_block_is_held(self) -> None:
        with pytest.raises(RuntimeError, match="holds no block of the kernel"):
            self.fit(0)

    def test_the_launch_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="refuses a cooperative launch: too many blocks"):
            self.fit(2, "too many blocks")

    def test_no_cooperative_launch(self) -> None:
        with pytest.raises(RuntimeError, match="has no cooperative launch"):
            self.fit(2, cooperative=False)


def test_float64_weights_are_refused() -> None:
    numbers = layer_numbers([torch.empty(3, 4, dtype=torch.float64)], [Geometry((4,))])
    with pytest.raises(RuntimeError, match="float64"):
        planner.plan_power_iteration(numbers, CARDS["H100"])


def test_a_window_that_does_not_fit_is_refused() -> None:
    geometry = Geometry((1, 400, 400), (1, 1), ((0, 0), (0, 0)), (199, 199))
    numbers = layer_numbers([torch.empty(1, 1, 3, 3)], [geometry])
    with pytest.raises(RuntimeError, match="larger than the shared memory"):
        planner.plan_power_iteration(numbers, CARDS["RTX 3080"])


class TestAShareOfTheMultiprocessors:
    """What is asked of the card, and how much of it a network needs."""

    CARD = CARDS["H100"]

    def fit(self, numbers: list[int], multiprocessors: int) -> object:
        (plan,) = planner.fit_power_iteration(
            numbers, self.CARD, lambda shared: 2, lambda *_: "", True, multiprocessors
        )
        return plan

    @pytest.mark.parametrize("multiprocessors", [1, 16, 48, 131])
    def test_a_share_is_planned_as_a_card_of_that_size(self, multiprocessors: int) -> None:
        plan = self.fit(numbers_of("8C2F"), multiprocessors)
        (of_small,) = planner.plan_power_iteration(
            numbers_of("8C2F"), self.CARD._replace(multiprocessors=multiprocessors)
        )
        assert plan.blocks <= 2 * multiprocessors
        assert (plan.layers(), plan.shared_bytes, plan.microseconds) == (
            of_small.layers(),
            of_small.shared_bytes,
            of_small.microseconds,
        )

    @pytest.mark.parametrize("multiprocessors", [0, 132, 1000])
    def test_all_of_them(self, multiprocessors: int) -> None:
        (of_all,) = planner.plan_power_iteration(numbers_of("8C2F"), self.CARD)
        assert self.fit(numbers_of("8C2F"), multiprocessors).layers() == of_all.layers()

    @pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
    @pytest.mark.parametrize("name", NETWORKS)
    def test_enough_is_a_tenth_slower_at_most_and_one_less_is_not(self, name: str, card: Card) -> None:
        numbers = numbers_of(name)
        enough = planner.enough_multiprocessors(numbers, card)

        def slower(multiprocessors: int) -> float:
            (plan,) = planner.plan_power_iteration(numbers, card._replace(multiprocessors=multiprocessors))
            (of_all,) = planner.plan_power_iteration(numbers, card)
            return plan.microseconds / of_all.microseconds

        rounding = 2e-3  # of the planner's search
        assert slower(enough) <= 1.1 * (1 + rounding)
        assert slower(enough - 1) > 1.1 * (1 - rounding)

    def test_what_waits_leaves_room_and_what_computes_takes_the_card(self) -> None:
        """Predicted for an H100 of 132 multiprocessors, none of whose blocks shares one where they are few."""
        enough = {name: planner.enough_multiprocessors(numbers_of(name), self.CARD) for name in NETWORKS}
        assert enough == {"2C2F": 21, "4C3F": 75, "6C2F": 58, "8C2F": 104}

    def test_the_largest_of_several_launches_counts(self) -> None:
        numbers = numbers_of("8C2F")
        few = dense_layers(planner.MOST_LAYERS)
        alone, beside = (planner.enough_multiprocessors(layers, self.CARD) for layers in (numbers, few + numbers))
        assert alone == beside > planner.enough_multiprocessors(few, self.CARD)

    def test_one_multiprocessor_is_enough_for_what_needs_no_more(self) -> None:
        assert planner.enough_multiprocessors(dense_layers(1), Card(1)) == 1


WIDE = {"4 x 256": (4, 256, 32), "4 x 512": (4, 512, 16), "12 x 64": (12, 64, 16)}


class TestTensorCores:
    """Convolutions with many channels run on tensor cores where that is predicted to be clearly faster."""

    @staticmethod
    def numbers(count: int, channels: int, size: int) -> list[int]:
        (shape, geometry) = conv((size, size), (channels, channels), 3, padding=(1, 1))
        return layer_numbers([torch.empty(shape)] * count, [geometry] * count)

    @pytest.mark.parametrize("name", WIDE)
    def test_wide_layers_on_an_h100(self, name: str) -> None:
        """What an H100 is to take, in microseconds with the gradient: 700, 1000, 120."""
        numbers = self.numbers(*WIDE[name])
        predicted = []
        for card in (CARDS["H100"], CARDS["H100"]._replace(cores=PLAIN)):
            (plan,) = planner.plan_power_iteration(numbers, card)
            (gradient,) = planner.plan_gradient(numbers, card)
            assert plan.wide == gradient.wide == (card.cores != PLAIN)
            assert all(layer["wide"] == plan.wide for layer in plan.layers())
            predicted.append(plan.microseconds + gradient.microseconds)
        print(f"{name}: {predicted[0]:.0f} us on tensor cores, {predicted[1]:.0f} without")
        assert predicted[0] <= {"4 x 256": 700, "4 x 512": 1000, "12 x 64": 120}[name]

    @pytest.mark.parametrize("channels", [3, 15])
    def test_few_channels_stay_where_they_are(self, channels: int) -> None:
        for cores in (0, TENSOR):
            (plan,) = planner.plan_power_iteration(self.numbers(2, channels, 32), CARDS["H100"]._replace(cores=cores))
            assert not plan.wide

    def test_short_vectors_stay_where_they_are(self) -> None:
        (plan,) = planner.plan_power_iteration(self.numbers(2, 128, 2), CARDS["H100"])
        assert not plan.wide

    def test_cards_without_tensor_cores_for_them(self) -> None:
        (plan,) = planner.plan_power_iteration(self.numbers(4, 256, 32), CARDS["A100"]._replace(major=7, cores=TENSOR))
        assert not plan.wide

    @pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
    def test_a_multiprocessor_holds_one_block(self, card: Card) -> None:
        (plan,) = planner.plan_power_iteration(self.numbers(4, 256, 32), card)
        assert plan.wide
        assert plan.blocks_per_multiprocessor == 1
        assert plan.blocks <= card.multiprocessors
        assert plan.shared_bytes <= card.shared_bytes_per_block


def test_a_gradient_has_no_iterations_to_predict() -> None:
    (plan,), (gradient,) = (
        plan(dense_layers(2), CARDS["A100"]) for plan in (planner.plan_power_iteration, planner.plan_gradient)
    )
    assert plan.predict(10, CARDS["A100"]) > plan.predict(5, CARDS["A100"]) > 0
    with pytest.raises(RuntimeError, match="a gradient has no iterations to predict"):
        gradient.predict(5, CARDS["A100"])
