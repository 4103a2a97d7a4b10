"""Fast-dLLM v2: Qwen2.5-Instruct under native keys, block-causal in blocks of 32, logits read one position earlier.

The first position of a block is read from the last of the block before, which sees nothing ahead of itself but its own block.
"""

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, Usual, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

FAST_DLLM = register_adapter(
    CheckpointAdapter(
        family="fast-dllm-v2",
        model_class=Qwen2ForCausalLM,
        model_types=("Fast_dLLM_Qwen",),
        architectures=("Fast_dLLM_QwenForCausalLM",),
        read_spec=mdm_spec(logit_shift=1, block=32, block_field="bd_size", bos="none"),
        base="Qwen/Qwen2.5-1.5B-Instruct or Qwen/Qwen2.5-7B-Instruct",
        evidence="[T] class, keys, shift, mask, block",
        usual=(Usual("mask_token_id", 151665, rows=151936), Usual("mask_token_id", 151665, rows=152064)),
        expects=EXPECTS,
        # Whether training also sees each row with the other tokens masked; the first spelling is the authors' own.
        ignores=("bd_size", "conplemenrary_mask", "complementary_mask"),
        tokenizer_class=Qwen2Tokenizer,
    )
)
