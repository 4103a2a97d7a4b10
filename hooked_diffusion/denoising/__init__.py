"""Denoising: schedules, selection, the loop, and what it leaves behind: a trajectory and a cache with a step axis."""

from hooked_diffusion.denoising.cache import DenoisingCache
from hooked_diffusion.denoising.settings import PRESETS, DenoisingSettings
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory

__all__ = ["PRESETS", "DenoisingCache", "DenoisingSettings", "DenoisingTrajectory"]
