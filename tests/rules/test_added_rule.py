"""A layer of one's own that is added by one file: rule and traits make of it what a layer of PyTorch is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError
from gloro_fast.graph.execution import BiasedMinMax
from gloro_fast.nn import LinearMap, LipschitzConstant, MinMax, Traits, register_lipschitz_rule
from gloro_fast.ops.geometry import Geometry
from gloro_fast.ops.minmax_inplace import minmax_
from gloro_fast.rules import registry

SHAPE = (4, 5, 5)
HERE = torch.linspace(0, 1, 6 * 100).reshape(6, *SHAPE)


class Convolution(nn.Module):
    """Convolves with a kernel of 3 x 3, the size kept."""

    times = 1.0

    def __init__(self) -> None:
        super().__init__()
        like = nn.Conv2d(4, 4, 3)
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.times, self.bias, padding=1)


def without_bias(module: Convolution, x: Tensor) -> Tensor:
    return F.conv2d(x, module.weight * module.times, None, padding=1)


class Doubled(Convolution):
    """Twice what its rule says."""

    times = 2.0


class Backwards(nn.Module):
    """The channels in another order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5


def convolution(module: Convolution, input_shape: tuple[int, ...]) -> LinearMap:
    return LinearMap(module.weight, Geometry(input_shape, (1, 1), ((1, 1), (1, 1)), (1, 1)))


def constant(value: float, **settings: bool):
    return lambda module, input_shape: LipschitzConstant(value, **settings)


LINEAR = Traits(is_its_map=True, without_bias=without_bias, spares_output=True, multiplies=True, rounding="sums")


@pytest.fixture(autouse=True)
def _rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    register_lipschitz_rule(Convolution, Doubled, traits=LINEAR)(convolution)
    register_lipschitz_rule(Backwards, traits=Traits(multiplies=False, rounding="selection"))(constant(1.0))
    register_lipschitz_rule(Half, traits=Traits(multiplies=False, scales=True, rounding="product"))(
        constant(0.5, per_element=True)
    )


class Residual(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


def net_of(layer: nn.Module, *rest: nn.Module) -> GloRoNet:
    torch.manual_seed(1)
    body = nn.Sequential(Residual(layer), MinMax(), copy.deepcopy(layer), MinMax(), *rest)
    return GloRoNet(nn.Sequential(body, nn.Flatten(), nn.Linear(100, 3)), 0.01, SHAPE).eval()


def twins() -> tuple[GloRoNet, GloRoNet]:
    """The same net with the layer of PyTorch and with ours."""
    torch.manual_seed(0)
    own, its = Convolution(), nn.Conv2d(4, 4, 3, padding=1)
    its.weight, its.bias = own.weight, own.bias
    return net_of(its), net_of(own)


def kinds(net: GloRoNet) -> list[object]:
    steps = [operation for operation, *_ in net._plan.program.steps]
    return [operation if operation is minmax_ else type(operation) for operation in steps]


def test_it_is_merged_fused_and_executed_as_that_of_pytorch():
    its, own = twins()
    assert [kind for kind in kinds(own) if kind is not Convolution] == [
        kind for kind in kinds(its) if kind is not nn.Conv2d
    ]
    assert kinds(own).count(BiasedMinMax) == 1
    assert own.lipschitz == its.lipschitz
    for executed in (False, True):
        mine, theirs = (net.certify(HERE, executed=executed) for net in (own, its))
        assert torch.equal(mine.radius, theirs.radius)
        assert torch.equal(mine.prediction, theirs.prediction)


def test_what_is_not_said_does_not_hold():
    its, _ = twins()
    register_lipschitz_rule(Convolution)(convolution)
    _, own = twins()
    assert BiasedMinMax not in kinds(own)
    assert own.lipschitz > 1.01 * its.lipschitz
    with pytest.raises(ArchitectureError, match="is a Convolution, whose rounding is not bounded"):
        own.certify(HERE, executed=True)


def test_a_rule_of_ones_own_takes_the_traits_of_the_package_away():
    register_lipschitz_rule(nn.Conv2d)(constant(100.0))
    its, _ = twins()
    assert BiasedMinMax not in kinds(its)


@pytest.mark.parametrize("traits", [LINEAR, Traits(is_its_map=True), Traits(rounding="sums")])
def test_another_map_than_it_claims_to_be_is_refused(traits):
    register_lipschitz_rule(Doubled, traits=traits)(convolution)
    with pytest.raises(ArchitectureError, match=r"Doubled.* computes something else than its settings and weight say"):
        net_of(Doubled())


@pytest.mark.parametrize(
    "traits",
    [
        Traits(without_bias=lambda module, x: 2 * without_bias(module, x)),
        Traits(without_bias=lambda module, x: module(x)),
        Traits(without_bias=lambda module, x: x),
    ],
    ids=["another product", "with the bias", "the input"],
)
def test_another_product_than_its_own_is_refused(traits):
    register_lipschitz_rule(Convolution, traits=traits)(convolution)
    with pytest.raises(ArchitectureError, match=r"\(Convolution\) has traits that do not hold"):
        net_of(Convolution())


def test_an_output_that_is_not_the_layers_own_is_refused():
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    for spares in (False, True):
        register_lipschitz_rule(Same, traits=Traits(spares_output=spares))(constant(1.0))
        if spares:
            with pytest.raises(ArchitectureError, match="its output is no new memory"):
                net_of(Convolution(), Same())
        else:
            net_of(Convolution(), Same())


def test_rounding_of_another_weight_is_refused():
    register_lipschitz_rule(Doubled, traits=Traits(rounding="sums"))(
        lambda module, shape: LinearMap(2 * module.weight, convolution(module, shape).geometry)
    )
    with pytest.raises(ArchitectureError, match="has another weight than its rule"):
        net_of(Doubled()).certify(HERE, executed=True)


def test_selections_and_numbers_are_executed():
    torch.manual_seed(0)
    layer = Convolution()
    turned = net_of(layer, Backwards(), Half())
    executed, real = (turned.certify(HERE, executed=yes) for yes in (True, False))
    assert (executed.radius <= real.radius).all()
    assert (executed.radius > real.radius - 3e-4).all()


def test_a_number_behind_the_head_keeps_its_rows():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(100, 3))
    bare, halved = (GloRoNet(nn.Sequential(head, *tail), 0.01, SHAPE).eval() for tail in ((), (Half(),)))
    torch.testing.assert_close(halved.difference_bounds, bare.difference_bounds / 2)
