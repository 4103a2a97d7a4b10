"""Turning an ARM into an MDM: recipes, masking, and a resumable training loop on native Hugging Face models."""

from hooked_diffusion.posttrain.loop import train
from hooked_diffusion.posttrain.recipe import Recipe, Rows

__all__ = ["Recipe", "Rows", "train"]
