from __future__ import annotations

import copy
import dataclasses

import pytest

from gloro_fast import bounds
from gloro_fast.data import to_float
from gloro_fast.errors import SoundnessError
from gloro_fast.evaluate.attacked import attacked

FEW = {"steps": 8, "restarts": 1}


@pytest.fixture
def _toolbox() -> None:
    pytest.importorskip("art", reason="attacks need the Adversarial Robustness Toolbox (extra attack)")


@pytest.mark.usefixtures("_toolbox")
def test_vra_is_below_pgd_is_below_clean(net, digits):
    found = attacked(net, to_float(digits.test.images[:200]), digits.test.labels[:200], 0.3, **FEW)
    (trial,) = found.trials
    assert 0 < found.vra <= trial.accuracy < found.clean_accuracy
    assert (found.broken, found.images) == (0, 200)
    assert found.certified >= 200 * found.vra
    found.check()
    assert found.to_dict()["trials"][0]["settings"] == FEW


@pytest.mark.usefixtures("_toolbox")
@pytest.mark.parametrize("method", ["torus", "power"])
def test_false_certificates_are_an_error_or_a_warning(net, digits, monkeypatch, method):
    honest = bounds.METHODS[method]

    def too_small(name, layer):
        bound = honest(name, layer)
        return dataclasses.replace(bound, value=bound.value / 10)

    monkeypatch.setitem(bounds.METHODS, method, too_small)
    wrong = copy.deepcopy(net).freeze(method)
    found = attacked(wrong, to_float(digits.test.images[:100]), digits.test.labels[:100], 1.0, **FEW)
    assert found.broken > 10
    if method == "power":
        with pytest.warns(UserWarning, match="is no bound"):
            found.check()
    else:
        with pytest.raises(SoundnessError, match=r"by PGD, of .*the bound by torus is wrong"):
            found.check()
