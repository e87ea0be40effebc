import pytest

from gloro_fast.recipes import get
from gloro_fast.train import epoch_settings


def test_paper_relu_6c2f_with_its_warmup():
    recipe = get("cifar10-6c2f-relu-ce")
    assert recipe.warmup_epochs == 20
    for epoch in (0, 19):
        settings = epoch_settings(recipe, epoch)
        assert (settings.phase, settings.epsilon, settings.lam) == ("warmup", None, None)
        assert settings.learning_rate == 1e-3
    first = epoch_settings(recipe, 20)
    assert (first.phase, first.lam) == ("robust", None)
    assert first.epsilon == pytest.approx(0.01 * 0.1551)
    assert epoch_settings(recipe, 20 + 400).epsilon == 0.1551


def test_paper_minmax_2c2f():
    recipe = get("mnist-2c2f").override(epochs=30)
    first, last = epoch_settings(recipe, 0), epoch_settings(recipe, 29)
    assert (first.epsilon, first.lam, first.learning_rate) == (0.3, 0.1, 1e-3)
    assert last.lam == pytest.approx(0.1 + 1.9 * 29 / 30)
    assert last.learning_rate == pytest.approx(1e-3 * 1e-3 ** (14 / 15))
