import importlib
import itertools
import math

import pytest
import torch
from exact_norms import contains, unrolled

from gloro_fast.bounds.torus import torus
from gloro_fast.nn import LinearMap
from gloro_fast.ops import Geometry

# The package has the function under the module's name.
module = importlib.import_module("gloro_fast.bounds.torus")


def same(channels, size, taps):
    before = (taps - 1) // 2
    return Geometry((channels, *size), (1,) * len(size), ((before, taps - 1 - before),) * len(size), (1,) * len(size))


def exact(layer):
    return torch.linalg.matrix_norm(unrolled(layer), 2).item()


HIGH_PASS = LinearMap(torch.tensor([[[-1.0, 2.0, -1.0]]]), same(1, (3,), 3))


def test_high_pass_on_an_odd_side():
    assert exact(HIGH_PASS) == pytest.approx(2 + math.sqrt(2))
    assert contains(torus("layer", HIGH_PASS).value, unrolled(HIGH_PASS))


def test_a_torus_of_side_n_would_be_caught(monkeypatch):
    monkeypatch.setattr(module, "_side", lambda axis: axis.inputs)
    monkeypatch.setattr(module, "_tori", lambda sides, extents: [module._grid(sides, (0,))])
    found = torus("layer", HIGH_PASS).value
    assert found == pytest.approx(3.0)
    assert not contains(found, unrolled(HIGH_PASS))


def test_a_gram_iteration_in_float32_would_be_caught():
    # Without rounding terms it falls below the norm about every other time.
    caught = 0
    for _ in range(40):
        weight = torch.randn(6, 4)
        iterate, exponent = weight, 0.0
        for step in range(12):
            power = torch.frexp(iterate.abs().max()).exponent.item()
            iterate, exponent = iterate * 2.0**-power, exponent + power / 2**step
            iterate = iterate.T @ iterate
        estimate = float(torch.linalg.vector_norm(iterate)) ** 2.0**-12 * 2.0**exponent
        assert estimate == pytest.approx(exact(LinearMap(weight, Geometry((4,)))), rel=1e-3)
        caught += not contains(estimate, weight.double())
    assert caught > 5


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        # Kernel = stride, with padding and without; 1 x 1; groups; circular with and without a stride.
        ((4, 3, 2, 2), Geometry((3, 6, 6), (2, 2), ((0, 0), (0, 0)), (1, 1))),
        ((4, 3, 2, 3), Geometry((3, 6, 6), (2, 4), ((0, 0), (0, 0)), (1, 1))),
        ((4, 3, 1, 1), Geometry((3, 4, 5), (1, 1), ((0, 0), (0, 0)), (1, 1))),
        ((4, 2, 2), Geometry((4, 8), (2,), ((0, 0),), (1,), 2)),
        ((4, 3, 3, 3), Geometry((3, 5, 6), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, "circular")),
        ((4, 3, 3, 3), Geometry((3, 6, 6), (2, 3), ((1, 1), (1, 1)), (1, 1), 1, "circular")),
        ((4, 3, 3), Geometry((3, 8), (1,), ((2, 2),), (2,), 1, "circular")),
    ],
)
def test_exact_where_the_layer_is_a_torus_or_a_matrix(shape, geometry):
    layer = LinearMap(torch.randn(shape), geometry)
    assert exact(layer) < torus("layer", layer).value < exact(layer) * (1 + 1e-6)


def test_close_on_larger_images():
    layer = LinearMap(torch.randn(3, 2, 3, 3), same(2, (14, 15), 3))
    assert torus("layer", layer).value < exact(layer) * 1.03


def test_a_dilated_layer_is_a_sum_of_undilated_ones():
    weight = torch.randn(2, 2, 3)
    dilated = LinearMap(weight, Geometry((2, 12), (1,), ((3, 3),), (3,)))
    assert torus("a", dilated).value == torus("b", LinearMap(weight, same(2, (4,), 3))).value


@pytest.mark.parametrize("sides", [(7,), (5, 4), (3, 4, 5), (1, 6, 1)])
@pytest.mark.parametrize("most", [1, 2, 5, 13, 1000])
def test_the_parts_of_a_grid_are_the_grid(sides, most):
    grid = module._grid(list(sides), (1,) + (0,) * (len(sides) - 1))

    def frequencies(part):
        return list(itertools.product(*([(a, axis.side) for a in axis.multiples] for axis in part)))

    parts = [frequencies(part) for part in module._parts(grid, most)]
    assert [point for part in parts for point in part] == frequencies(grid)
    assert max(map(len, parts)) <= most


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_grids_that_are_evaluated_in_parts(sign, monkeypatch):
    # The largest symbol is that of frequency 0, in the first part, or of pi, in the last.
    signs = sign ** torch.arange(3)
    layer = LinearMap(torch.randn(3, 2, 3, 3).abs() * signs[:, None] * signs, same(2, (6, 7), 3))
    whole = torus("layer", layer).value
    monkeypatch.setattr(module, "_CHUNK", 100)
    assert torus("layer", layer).value == pytest.approx(whole, rel=1e-6)


def test_first_torus_alone_where_more_would_take_long(monkeypatch):
    layer = LinearMap(torch.randn(3, 2, 3, 3), same(2, (6, 7), 3))
    many = torus("layer", layer).value
    monkeypatch.setattr(module, "_AFFORDABLE", 0.0)
    assert many <= torus("layer", layer).value < many * 1.3
