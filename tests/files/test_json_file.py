from __future__ import annotations

import json
import math

import pytest

from gloro_fast.errors import CertificateError
from gloro_fast.files import json_file

DOCUMENT = {
    "numbers": [0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 1 / 3],
    "deep": {"list": [{"inf": math.inf}, None, True]},
    "text": "radius",
}


@pytest.fixture
def path(tmp_path):
    json_file.write(tmp_path / "some.json", "thing", 3, DOCUMENT)
    return tmp_path / "some.json"


def test_it_reads_back_to_the_last_bit(path):
    assert json_file.read(path, "thing", 3) == DOCUMENT
    assert json.loads(path.read_text())["numbers"][3] == "inf"


def test_nan_comes_back_as_nan(path):
    json_file.write(path, "thing", 3, {"x": math.nan})
    assert math.isnan(json_file.read(path, "thing", 3)["x"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-40], "truncated or damaged"),
        (lambda text: "", "truncated or damaged"),
        (lambda text: text.replace("radius", "Radius"), "edited or damaged"),
        (lambda text: text.replace("0.1", "0.2"), "edited or damaged"),
        (lambda text: text.replace('"deep"', '"deeper"'), "edited or damaged"),
        (lambda text: text.replace("0.1", "NaN"), "NaN is no JSON"),
        (lambda text: text.replace('"thing"', '"other"'), "no thing"),
        (lambda text: text.replace('"format_version": 3', '"format_version": 4'), "version 4, this gloro_fast reads 3"),
        (lambda text: "[1, 2]", "no thing"),
    ],
)
def test_what_was_changed_is_refused(path, change, says):
    path.write_text(change(path.read_text()))
    with pytest.raises(CertificateError, match=says):
        json_file.read(path, "thing", 3)


def test_every_changed_character_is_seen(path):
    whole, refused = path.read_text(), 0
    for place in range(0, len(whole), 3):
        changed = whole[:place] + ("7" if whole[place] != "7" else "8") + whole[place + 1 :]
        path.write_text(changed)
        try:
            # 7e-324 is 5e-324.
            assert json_file.read(path, "thing", 3) == DOCUMENT
        except CertificateError:
            refused += 1
    assert refused > len(whole) / 4


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(CertificateError, match="no file"):
        json_file.read(tmp_path / "none.json", "thing", 3)
