"""Turning an ARM into an MDM: recipes, masking, and a resumable training loop on native Hugging Face models."""

from hooked_diffusion.posttrain.loop import Step, train
from hooked_diffusion.posttrain.mixture import Mixture, Source
from hooked_diffusion.posttrain.recipe import PRESETS, Recipe, preset
from hooked_diffusion.posttrain.rows import Rows, RowSource, Text, pack
from hooked_diffusion.posttrain.run import Watch, posttrain

__all__ = ["PRESETS", "Mixture", "Recipe", "RowSource", "Rows", "Source", "Step", "Text", "Watch", "pack", "posttrain", "preset", "train"]
