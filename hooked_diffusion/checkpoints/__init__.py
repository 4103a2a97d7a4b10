"""Opening and saving checkpoints: config and keys of a family in, a native Hugging Face model out. No remote code, no pickle."""

from hooked_diffusion.checkpoints import dream, llada, llama, qwen2  # noqa: F401  (importing a family registers it)
from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, families, register_adapter
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from hooked_diffusion.checkpoints.matching import CheckpointMismatch
from hooked_diffusion.checkpoints.saving import save_checkpoint

__all__ = [
    "CheckpointAdapter", "CheckpointMismatch", "LoadedCheckpoint", "families", "load_checkpoint", "register_adapter", "save_checkpoint",
]  # fmt: skip
