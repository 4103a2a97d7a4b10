"""Native Qwen2 and Qwen2.5: ARMs, and MDMs saved with a `diffusion_spec`."""

from transformers import Qwen2ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, arm_spec
from hooked_diffusion.checkpoints.registry import register_adapter

#: What the configs of Qwen's relatives must say: no layer attends in a window.
EXPECTS = {"use_sliding_window": False}

QWEN2 = register_adapter(
    CheckpointAdapter(
        family="qwen2",
        model_class=Qwen2ForCausalLM,
        model_types=("qwen2",),
        architectures=("Qwen2ForCausalLM",),
        read_spec=arm_spec,
        base="itself: the keys and the config are native",
        evidence="[R]",
        expects=EXPECTS,
    )
)
