"""Native Qwen3 (dense): ARMs, and MDMs saved with a `diffusion_spec`."""

from transformers import Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, arm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

QWEN3 = register_adapter(
    CheckpointAdapter(
        family="qwen3",
        model_class=Qwen3ForCausalLM,
        model_types=("qwen3",),
        architectures=("Qwen3ForCausalLM",),
        read_spec=arm_spec,
        base="itself: the keys and the config are native",
        evidence="[R]",
        expects=EXPECTS,
    )
)
