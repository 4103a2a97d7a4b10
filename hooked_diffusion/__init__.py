"""Hooked autoregressive and masked-diffusion transformers, on TransformerLens."""

from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.spec import DiffusionSpec

__all__ = ["DiffusionSpec", "HookedDiffusionTransformer"]
