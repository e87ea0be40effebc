"""Certified radii against exact rationals: never above the real one, and zero wherever there is doubt."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gloro_fast.native import extension
from gloro_fast.ops.certify import bottom_logit, certified_radius, certify_logits, certify_logits_reference

compiled = pytest.mark.skipif(not extension.available(), reason=f"compiled ops: {extension.why_not()}")


def exact_radius(logits, differences, lipschitz):
    """min over i != j of (f_j - f_i) / (K D_ij), in rationals; None is infinite."""
    f = [Fraction(x) for x in logits]
    j = f.index(max(f))
    quotients = []
    for i in range(len(f)):
        slope = Fraction(lipschitz) * Fraction(differences[j][i])
        if i != j and f[j] == f[i]:
            return Fraction(0)
        if i != j and slope:
            quotients.append((f[j] - f[i]) / slope)
    return min(quotients, default=None)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3),
    st.floats(0, 1e20),
    st.lists(st.floats(0, 1e10), min_size=3, max_size=3),
)
def test_radius_is_never_above_the_real_one(logits, lipschitz, distances):
    a, b, c = distances
    differences = [[0.0, a, b], [a, 0.0, c], [b, c, 0.0]]
    _, radius = certified_radius(torch.tensor([logits]), torch.tensor(differences, dtype=torch.float64), lipschitz)
    exact = exact_radius(logits, differences, lipschitz)
    if exact is not None:
        assert radius.item() != math.inf
        assert Fraction(radius.item()) <= exact
        if exact and Fraction(1, 10**200) < exact < 10**200:
            assert Fraction(radius.item()) >= exact * (1 - Fraction(1, 10**14))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_the_bottom_logit_signs_like_the_radius(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(50, 4, generator=generator).to(dtype)
    logits[0, :2] = 9.0
    differences = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    prediction, radius = certified_radius(logits, differences, 1.3)
    # Each image's own radius is the epsilon where rounding decides.
    for epsilon in [0.0, *radius[:10].tolist(), *torch.nextafter(radius[:10], radius[:10] * 0).tolist()]:
        bottom = bottom_logit(logits, prediction, radius, differences, 1.3, epsilon)
        top = logits.amax(1)
        assert bottom.dtype == dtype
        assert torch.equal(bottom < top, radius > epsilon)
        assert torch.equal(bottom > top, radius <= epsilon)


def test_bottom_is_never_below_the_real_one():
    logits, differences = torch.randn(100, 5, dtype=torch.float64), torch.rand(5, 5, dtype=torch.float64)
    prediction, radius = certified_radius(logits, differences, 1.1)
    bottom = bottom_logit(logits, prediction, radius, differences, 1.1, 0.3)
    for row, j, value, r in zip(logits.tolist(), prediction.tolist(), bottom.tolist(), radius.tolist(), strict=True):
        exact = max(
            Fraction(row[i]) + Fraction(0.3) * Fraction(1.1) * Fraction(float(differences[j, i]))
            for i in range(5)
            if i != j
        )
        assert r > 0.3 or Fraction(value) >= exact


DOUBTFUL = {
    "tie": ([1.0, 1.0, 0.0], 1.0),
    "tie without slope": ([1.0, 1.0, 0.0], 0.0),
    "nan logit": ([3.0, math.nan, 0.0], 1.0),
    "inf logit": ([math.inf, 1.0, 0.0], 1.0),
    "-inf logit": ([3.0, -math.inf, 0.0], 1.0),
    "inf K": ([3.0, 1.0, 0.0], math.inf),
    "nan K": ([3.0, 1.0, 0.0], math.nan),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_doubt_gives_bottom(case):
    row, lipschitz = DOUBTFUL[case]
    logits, differences = torch.tensor([row]), torch.ones(3, 3, dtype=torch.float64).fill_diagonal_(0)
    prediction, radius = certified_radius(logits, differences, lipschitz)
    assert radius.item() == 0
    bottom = bottom_logit(logits, prediction, radius, differences, lipschitz, 0.1)
    assert not bottom.item() < max(row)


def test_an_infinite_difference_gives_bottom():
    differences = torch.full((2, 2), math.inf, dtype=torch.float64)
    assert certified_radius(torch.tensor([[1.0, 0.0]]), differences, 1.0)[1].item() == 0


def test_products_that_underflow_do_not_certify_everything():
    # K D = 1e-400 is 0 in float64; the real radius is 1e-300 / 1e-400 = 1e100.
    differences = torch.full((2, 2), 1e-200, dtype=torch.float64)
    logits = torch.tensor([[1e-300, 0.0]], dtype=torch.float64)
    assert certified_radius(logits, differences, 1e-200)[1].item() <= 1e100


def test_no_slope_puts_no_limit_and_a_tie_still_does():
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    logits = torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 0.0]])
    for sign in (certify_logits, certify_logits_reference):
        for lipschitz, differences in ((1.0, nothing), (0.0, torch.ones_like(nothing))):
            assert sign(logits, differences, lipschitz, 5.0)[1].tolist() == [math.inf, 0.0]


def test_flushing_subnormals_to_zero_does_not_certify_everything():
    differences = torch.full((2, 2), 1e-200, dtype=torch.float64)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormals")
    try:
        assert certified_radius(torch.tensor([[1.0, 0.0]]), differences, 1e-200)[1].item() < math.inf
    finally:
        torch.set_flush_denormal(False)


def assert_same_bits(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


def random_problem(seed, rows, classes, dtype):
    """Logits and differences over the whole range of the type, with ties and what is not finite among them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    scale = torch.randint(-300, 300, (rows, 1), generator=generator) if seed % 2 else torch.zeros(rows, 1)
    logits = (logits * 10.0**scale).to(dtype)
    big = torch.finfo(dtype).max
    special = torch.tensor([0.0, -0.0, 9.0, 9.0, big, -big, 5e-324, torch.inf, -torch.inf, torch.nan]).to(dtype)
    which = torch.randint(len(special), logits.shape, generator=generator)
    rate = torch.rand(rows, 1, generator=generator) ** 2
    logits = torch.where(torch.rand(logits.shape, generator=generator) < rate, special[which], logits)
    differences = torch.rand(classes, classes, generator=generator, dtype=torch.float64).fill_diagonal_(0)
    if seed % 3 == 0:
        odd = torch.tensor([0.0, 5e-324, 1e-200, 1e200, 1e308, math.inf, math.nan], dtype=torch.float64)
        which = torch.randint(len(odd), differences.shape, generator=generator)
        differences = torch.where(torch.rand(differences.shape, generator=generator) < 0.2, odd[which], differences)
    return logits, differences


@compiled
@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 20),
    st.integers(2, 20),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from([0.0, 5e-324, 1e-200, 0.7, 1.3, 1e300, math.inf, math.nan]),
    st.sampled_from([0.0, 1e-320, 0.3, 1e300, "a radius"]),
)
def test_compiled_has_the_bits_of_the_reference(seed, rows, classes, dtype, lipschitz, epsilon):
    logits, differences = random_problem(seed, rows, classes, dtype)
    if epsilon == "a radius":
        finite = [r for r in certified_radius(logits, differences, lipschitz)[1].tolist() if r < math.inf]
        epsilon = max(finite, default=0.3)
    expected = certify_logits_reference(logits, differences, lipschitz, epsilon)
    assert_same_bits(certify_logits(logits, differences, lipschitz, epsilon), expected)
    assert_same_bits(certify_logits(logits.t().contiguous().t(), differences, lipschitz, epsilon), expected)


@compiled
def test_compiled_has_the_same_bits_at_every_number_of_threads():
    logits, differences = random_problem(1, 3000, 10, torch.float32)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(certify_logits(logits, differences, 1.3, 0.2))
    assert_same_bits(*results)
    assert_same_bits(results[0], certify_logits_reference(logits, differences, 1.3, 0.2))


@compiled
def test_compiled_certifies_not_everything_where_subnormals_are_flushed():
    differences = torch.full((2, 2), 1e-200, dtype=torch.float64)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush subnormals")
    try:
        assert certify_logits(torch.tensor([[1.0, 0.0]]), differences, 1e-200, 0.1)[1].item() < math.inf
    finally:
        torch.set_flush_denormal(False)


@compiled
def test_opcheck():
    logits, differences = random_problem(2, 5, 4, torch.float32)
    torch.library.opcheck(torch.ops.gloro_fast.certify, (logits, differences, 1.3, 0.2))


def test_signing_leaves_no_graph():
    logits = torch.randn(3, 4, requires_grad=True)
    for function in (certify_logits, certify_logits_reference):
        assert not any(t.requires_grad for t in function(logits, torch.ones(4, 4, dtype=torch.float64), 1.0, 0.1))
