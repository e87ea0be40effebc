from __future__ import annotations

import dataclasses
import json

import pytest

from gloro_fast.recipes import RECIPES


def test_every_recipe_is_listed_unbroken(invoke):
    result = invoke("recipes")
    assert result.exit_code == 0
    words = result.stdout.split()
    assert all(name in words for name in RECIPES)


def test_json_has_every_field(invoke):
    listed = json.loads(invoke("recipes", "--json").stdout)
    assert listed == [dataclasses.asdict(recipe) for recipe in RECIPES.values()]


@pytest.mark.parametrize("name", ["digits", "cifar10-6c2f-relu-trades"])
def test_one_recipe_with_all_its_fields(invoke, name):
    result = invoke("recipes", name)
    for field, value in dataclasses.asdict(RECIPES[name]).items():
        assert any(line.split() == [field, str(value)] for line in result.stdout.splitlines()), field


def test_an_unknown_one_suggests_the_nearest(refused):
    assert "did you mean 'mnist-4c3f'?" in refused("recipes", "mnist-4c3")
