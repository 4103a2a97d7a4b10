"""Circuits of autoregressive and masked-diffusion language models, found, compared and reported."""

from mechshift_tl.attribution.attribute import attribute

__all__ = ["attribute"]
