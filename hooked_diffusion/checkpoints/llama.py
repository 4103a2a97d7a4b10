"""Native Llama: ARMs, and MDMs saved with a `diffusion_spec`."""

from transformers import LlamaForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, arm_spec
from hooked_diffusion.checkpoints.registry import register_adapter

#: A buffer that old versions of transformers saved with the weights; it follows from rope_theta.
ROTARY_BUFFER = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"

LLAMA = register_adapter(
    CheckpointAdapter(
        family="llama",
        model_class=LlamaForCausalLM,
        model_types=("llama",),
        architectures=("LlamaForCausalLM",),
        read_spec=arm_spec,
        base="itself: the keys and the config are native",
        evidence="[R]",
        drop=(ROTARY_BUFFER,),
    )
)
