"""Pairs: an ARM, the masked-diffusion model made from it, and the control, opened together and checked to share a backbone."""

from hooked_diffusion.pairs.pair import Pair, bundled_pairs, load_pair

__all__ = ["Pair", "bundled_pairs", "load_pair"]
