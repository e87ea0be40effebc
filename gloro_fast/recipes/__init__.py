"""What decides a training run but for seed and place of the data: recipes by name, schedules, the paper's figures.

Stands on errors alone. ``train`` runs a recipe, ``reproduce`` and ``evaluate`` compare with the paper, the command line
lists and overrides.
"""

from gloro_fast.recipes.recipe import FIELDS, NEUTRAL_NEEDS, RECIPES, Recipe, get, neutral

__all__ = ["FIELDS", "NEUTRAL_NEEDS", "RECIPES", "Recipe", "get", "neutral"]
