"""Pair recipes: how an ARM, the MDM made from it, and the control were trained, as stages that anybody can run again."""

from mechshift_tl.recipes.pair_recipe import PairRecipe
from mechshift_tl.recipes.smollm2 import SmolLM2
from mechshift_tl.recipes.tiny import Tiny

PAIR_RECIPES: dict[str, type[PairRecipe]] = {"tiny": Tiny, "smollm2": SmolLM2}

__all__ = ["PAIR_RECIPES", "PairRecipe", "SmolLM2", "Tiny"]
