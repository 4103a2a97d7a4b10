"""Turning an ARM into an MDM: recipes, masking, and a resumable training loop on native Hugging Face models."""

from hooked_diffusion.posttrain.loop import Step, train
from hooked_diffusion.posttrain.recipe import PRESETS, Recipe, preset
from hooked_diffusion.posttrain.rows import Rows, RowSource, Text, pack

__all__ = ["PRESETS", "Recipe", "RowSource", "Rows", "Step", "Text", "pack", "preset", "train"]
