"""Opening and saving checkpoints: the config and the keys of a family become a native Hugging Face model. No remote code, no pickle."""

# Importing a family registers it.
from hooked_diffusion.checkpoints import a2d, diffugpt, diffullama, dream, fast_dllm, gpt2, llada, llama, qwen2, qwen3, sdar  # noqa: F401
from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, arm_spec, mdm_spec
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from hooked_diffusion.checkpoints.matching import CheckpointMismatch
from hooked_diffusion.checkpoints.registry import families, register_adapter
from hooked_diffusion.checkpoints.saving import convert, save_checkpoint

__all__ = [
    "CheckpointAdapter", "CheckpointMismatch", "LoadedCheckpoint", "arm_spec", "convert", "families", "load_checkpoint", "mdm_spec",
    "register_adapter", "save_checkpoint",
]  # fmt: skip
