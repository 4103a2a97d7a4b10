"""SDAR: Qwen3 under native keys, block-causal in blocks of 4, logits read at the position itself."""

from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

SDAR = register_adapter(
    CheckpointAdapter(
        family="sdar",
        model_class=Qwen3ForCausalLM,
        model_types=("sdar",),
        architectures=("SDARForCausalLM",),
        read_spec=mdm_spec(logit_shift=0, block=4, block_field="block_size", bos="none"),
        base="Qwen/Qwen3 of the same size",
        evidence="[T] class, keys, shift, mask, block",
        expects=EXPECTS,
        # Settings of its authors' training kernels.
        ignores=("block_size", "fuse_cross_entropy", "ep_size"),
        tokenizer_class=Qwen2Tokenizer,
    )
)
