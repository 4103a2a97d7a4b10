"""Hooked autoregressive and masked-diffusion transformers, on TransformerLens."""

from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.pairs.pair import Pair, load_pair
from hooked_diffusion.spec import DiffusionSpec

__all__ = ["DiffusionSpec", "HookedDiffusionTransformer", "Pair", "load_pair"]
