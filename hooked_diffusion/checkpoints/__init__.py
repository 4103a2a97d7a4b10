"""Opening and saving checkpoints: the config and the keys of a family become a native Hugging Face model. No remote code, no pickle."""

# Importing a family registers it.
from hooked_diffusion.checkpoints import (  # noqa: F401  # noqa: F401
    a2d,
    causal_controls,
    coda,
    diffugpt,
    diffullama,
    dream,
    efficient_dlm,
    fast_dllm,
    gpt2,
    illada,
    llada,
    llama,
    opdlm,
    open_dcoder,
    qwen2,
    qwen3,
    sdar,
)
from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, arm_spec, mdm_spec
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint, load_checkpoint
from hooked_diffusion.checkpoints.matching import CheckpointMismatch
from hooked_diffusion.checkpoints.reading import ConfigReading, inspect_checkpoint
from hooked_diffusion.checkpoints.registry import families, register_adapter
from hooked_diffusion.checkpoints.saving import convert, save_checkpoint

__all__ = [
    "CheckpointAdapter", "CheckpointMismatch", "ConfigReading", "LoadedCheckpoint", "arm_spec", "convert", "families",
    "inspect_checkpoint", "load_checkpoint", "mdm_spec", "register_adapter", "save_checkpoint",
]  # fmt: skip
