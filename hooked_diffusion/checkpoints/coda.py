"""CoDA: Qwen3 under native keys, full attention, logits read one position earlier."""

from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, Usual, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

CODA = register_adapter(
    CheckpointAdapter(
        family="coda",
        model_class=Qwen3ForCausalLM,
        model_types=(),
        architectures=("CoDALanguageModel",),
        names=(r"CoDA-(v0|1\.7B).*",),
        instead_of=("qwen3",),
        read_spec=mdm_spec(logit_shift=1, bos="none"),
        base="Qwen/Qwen3-1.7B",
        evidence="[P] class, keys, attention, shift, mask; model_type not seen",
        usual=(Usual("mask_token_id", 151669, rows=151936),),
        expects=EXPECTS,
        # How training places its masks, and which kernel it runs.
        ignores=(
            "attention_kernel", "prefix_probability", "truncate_probability", "block_masking_probability", "mask_block_sizes",
            "masking_scheduler", "sampling_eps",
        ),
        tokenizer_class=Qwen2Tokenizer,
    )
)  # fmt: skip
