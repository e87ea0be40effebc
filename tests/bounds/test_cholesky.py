import importlib
import math

import pytest
import torch
from exact_norms import contains, squared_norm_from_below, unrolled

from gloro_fast.bounds.axis import Axis
from gloro_fast.bounds.cholesky import cholesky, work
from gloro_fast.bounds.lanczos import lanczos
from gloro_fast.bounds.row_blocks import RowBlocks
from gloro_fast.nn import LinearMap
from gloro_fast.ops import Geometry

# The package has the function under the module's name.
module = importlib.import_module("gloro_fast.bounds.cholesky")

SAME = ((1, 1), (1, 1))
LAYERS = {
    "wider out": ((6, 2, 3, 3), Geometry((2, 7, 5), (1, 1), SAME, (1, 1))),
    "wider in": ((2, 5, 3, 3), Geometry((5, 5, 6), (1, 1), SAME, (1, 1))),
    "stride": ((4, 3, 4, 4), Geometry((3, 9, 8), (2, 2), SAME, (1, 1))),
    "long reach": ((3, 2, 5, 5), Geometry((2, 8, 8), (1, 1), ((2, 2), (2, 2)), (1, 1))),
    "dilation": ((3, 2, 3, 3), Geometry((2, 9, 8), (1, 1), ((2, 2), (2, 1)), (2, 3))),
    "stride and dilation": ((3, 2, 3, 3), Geometry((2, 11, 12), (2, 2), ((2, 2), (2, 1)), (3, 2))),
    "groups": ((6, 2, 3, 2), Geometry((6, 6, 6), (1, 2), ((1, 1), (0, 1)), (1, 1), 3)),
    "uneven": ((2, 3, 4, 3), Geometry((3, 6, 7), (1, 2), ((0, 3), (2, 0)), (1, 1))),
    "one dimension": ((3, 2, 5), Geometry((2, 17), (1,), ((2, 2),), (1,))),
    "dense": ((7, 30), Geometry((30,))),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    shape, geometry = LAYERS[request.param]
    return LinearMap(torch.randn(shape), geometry)


def test_within_a_millionth_of_the_norm(layer):
    found = cholesky("layer", layer)
    matrix = unrolled(layer)
    assert found.method == "cholesky"
    assert contains(found.value, matrix)
    assert found.value < math.sqrt(squared_norm_from_below(matrix)) * (1 + 1e-6)


def test_an_estimate_that_is_far_too_small_costs_time_alone(layer, monkeypatch):
    monkeypatch.setattr(module, "lanczos", lambda *args, **options: lanczos(*args, **options) * 0.9)
    assert contains(cholesky("layer", layer).value, unrolled(layer))


def test_a_value_that_hid_from_the_first_start_is_found(layer, monkeypatch):
    # Within a millionth all the same.
    monkeypatch.setattr(module, "lanczos", lambda *args, seed=0: lanczos(*args, seed=seed) * (1 if seed else 1 - 1e-5))
    assert cholesky("layer", layer).value < math.sqrt(squared_norm_from_below(unrolled(layer))) * (1 + 1e-6)


def test_nothing_is_asked_of_the_library(layer, monkeypatch):
    # A factor and solutions that are off by a thousandth are measured, not believed.
    factor, solve = torch.linalg.cholesky_ex, torch.linalg.solve_triangular

    def rough_factor(matrix):
        found, failed = factor(matrix)
        return found * (1 - 1e-3 * torch.rand_like(found)), failed

    def rough_solve(*args, **options):
        found = solve(*args, **options)
        return found * (1 - 1e-3 * torch.rand_like(found))

    monkeypatch.setattr(torch.linalg, "cholesky_ex", rough_factor)
    monkeypatch.setattr(torch.linalg, "solve_triangular", rough_solve)
    found, matrix = cholesky("layer", layer, 1e-4).value, unrolled(layer)
    assert contains(found, matrix)
    assert found > math.sqrt(squared_norm_from_below(matrix)) * (1 + 1.1e-4)


@pytest.mark.parametrize("layer", sorted(LAYERS.keys() - {"dense"}), indirect=True)
def test_a_square_below_the_norm_fails(layer):
    exact = squared_norm_from_below(unrolled(layer))
    scaled = module.scale(layer.weight)
    exact = float(exact / 4**scaled.exponent)
    problems = module._problems(scaled.weight, layer.geometry)
    assert max(module._squared_norm(problem, exact * (1 - 1e-9)) for problem in problems) == math.inf
    assert exact < max(module._squared_norm(problem, exact * (1 + 1e-9)) for problem in problems) < exact * (1 + 1e-8)


def test_row_blocks_are_the_gram_matrix_in_its_order():
    geometry = Geometry((2, 9, 8), (2, 1), ((1, 2), (2, 1)), (1, 1))
    kernel = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    blocks = RowBlocks(kernel[None], Axis(9, 5, 4, 2, -1), Axis(8, 9, 3, 1, -2))
    matrix = unrolled(LinearMap(kernel, geometry))
    ordered = matrix.reshape(3, 5, 9, -1).permute(1, 2, 0, 3).flatten(0, 2)
    gram = (ordered @ ordered.T).reshape(5, blocks.size, 5, blocks.size)
    assert blocks.size == 27
    assert blocks.band == 1
    for row in range(5):
        for column in range(row + 1):
            block = gram[row, :, column]
            if row - column <= blocks.band:
                torch.testing.assert_close(blocks.block(column, row - column)[0], block, rtol=1e-12, atol=1e-12)
            else:
                assert not block.any()
    absolute = torch.linalg.matrix_norm(matrix.abs(), 2).item() ** 2
    assert absolute < blocks.absolute_norm() < 10 * absolute


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((2, 4, 4, 4), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1)),
        Geometry((2, 5, 5), (1, 1), SAME, (1, 1), 1, "circular"),
    ],
)
def test_what_is_left_to_the_torus_says_so(geometry):
    layer = LinearMap(torch.randn(3, 2, *(3,) * len(geometry.stride)), geometry)
    assert work(layer) == math.inf
    assert cholesky("layer", layer).method == "torus"


def test_lanczos_comes_from_below(layer):
    norm = torch.linalg.matrix_norm(unrolled(layer), 2).item()
    assert norm * (1 - 1e-9) < lanczos(layer.weight.double(), layer.geometry, 1e-9) < norm * (1 + 1e-13)


def test_lanczos_of_nothing():
    assert lanczos(torch.zeros(2, 3, dtype=torch.float64), Geometry((3,)), 1e-9) == 0.0
