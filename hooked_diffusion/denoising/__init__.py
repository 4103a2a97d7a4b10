"""Denoising: the loop and its settings, hooks that know the step, caches with a step axis, and the trajectory a run leaves behind."""

from hooked_diffusion.denoising.cache import DenoisingCache, patch_from
from hooked_diffusion.denoising.settings import PRESETS, DenoisingSettings
from hooked_diffusion.denoising.steering import DenoisingStep
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory

__all__ = ["PRESETS", "DenoisingCache", "DenoisingSettings", "DenoisingStep", "DenoisingTrajectory", "patch_from"]
