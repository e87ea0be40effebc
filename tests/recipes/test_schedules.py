import math

import pytest

from gloro_fast import schedules
from gloro_fast.errors import ConfigError


def test_linear_is_the_papers_x_y_e():
    schedule = schedules.parse_lambda("0.1,2.0,500")
    assert [schedule(t) for t in (0, 250, 499, 500, 600)] == pytest.approx([0.1, 1.05, 0.1 + 1.9 * 499 / 500, 2, 2])


def test_radii_in_bytes():
    schedule = schedules.parse_epsilon("9/255,36/255,10", 0.3, 20)
    assert (schedule(0), schedule(10)) == (9 / 255, 36 / 255)
    assert schedules.rescale("9/255,36/255,10", 0.5) == "9/255,36/255,5"


def test_constant_lambda():
    assert {schedules.parse_lambda("1.5")(t) for t in range(10)} == {1.5}


def test_log_starts_at_a_hundredth_and_arrives_at_half():
    schedule = schedules.parse_epsilon("log", 2.0, 101)
    assert schedule(0) == pytest.approx(0.02)
    assert schedule(50) == schedule(100) == 2.0
    assert schedule(25) == pytest.approx(2 * math.log((math.e - math.exp(0.01)) / 2 + math.exp(0.01)))
    assert all(schedule(t) < schedule(t + 1) for t in range(50))


def test_single_epsilon():
    assert {schedules.parse_epsilon("single", 0.3, 10)(t) for t in range(10)} == {0.3}


def test_learning_rate_decays_from_half_towards_the_bound():
    schedule = schedules.exponential_after_half(1e-3, 1e-6, 11)
    assert [schedule(t) for t in range(5)] == [1e-3] * 5
    assert schedule(5) == 1e-3
    assert schedule(8) == pytest.approx(1e-3 * 1e-3**0.5)
    assert schedule(11) == pytest.approx(1e-6)
    assert 1e-6 < schedule(10) < 1e-5


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_shortest_runs_have_values(epochs):
    for t in range(epochs):
        assert 0 < schedules.parse_epsilon("log", 0.3, epochs)(t) <= 0.3
        assert 1e-6 < schedules.exponential_after_half(1e-3, 1e-6, epochs)(t) <= 1e-3


@pytest.mark.parametrize("text", ["", "a", "1,2", "1,2,3,4", "nan", "-1", "1,2,0", "inf,1,2"])
def test_unusable_texts(text):
    with pytest.raises(ConfigError):
        schedules.parse_lambda(text)
    with pytest.raises(ConfigError):
        schedules.parse_epsilon(text, 0.3, 10)


def test_rescale():
    assert schedules.rescale("0.1,2.0,500", 30 / 500) == "0.1,2.0,30"
    assert schedules.rescale("log", 0.5) == "log"
    assert schedules.rescale("1.5", 0.5) == "1.5"


def test_rescale_values():
    assert schedules.rescale_values("0.1,36/255,500", 2.0) == f"0.2,{72 / 255:.9g},500"
    assert schedules.rescale_values("0.3", 0.5) == "0.15"
    assert schedules.rescale_values("log", 2.0) == "log"
