import pytest

from gloro_fast.recipes.schedules import read_number


def test_numbers_and_quotients():
    assert [read_number(text) for text in ("0.3", "1e-3", "36/255", " 1 / 2 ", "-1/4")] == [
        0.3,
        1e-3,
        36 / 255,
        0.5,
        -0.25,
    ]


@pytest.mark.parametrize("text", ["", "wide", "36/", "/255", "1/2/3", "1/0", "36 255"])
def test_what_is_neither(text):
    with pytest.raises(ValueError, match=r"float|divides by 0"):
        read_number(text)
