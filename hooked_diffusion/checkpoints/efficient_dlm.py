"""Efficient-DLM: Qwen3 under native keys, block-causal, logits read at the position itself.

Its config says `model_type: qwen3`, so that only the class under `architectures` tells it from an ARM. `dlm_paradigm: bidirectional` there
is a setting of training; the authors' README decodes in blocks of 32.
"""

from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

EFFICIENT_DLM = register_adapter(
    CheckpointAdapter(
        family="efficient-dlm",
        model_class=Qwen3ForCausalLM,
        model_types=(),
        architectures=("EfficientDLM",),
        names=(r"Efficient-DLM-\d+B.*",),
        instead_of=("qwen3",),
        # The mask, 151662, is one of the 151669 ids that the ARM's text uses: a word reused.
        read_spec=mdm_spec(logit_shift=0, block=32, block_field="block_size", words=151669, bos="none"),
        base="Qwen/Qwen3-4B or Qwen/Qwen3-8B",
        evidence="[P] config; block and shift by its README; [T] class, keys",
        expects=EXPECTS,
        flags={"disable_qk_norm": False, "dlm_arch": "encoder", "num_ar_layers": 0, "num_diffusion_layers": 0},
        # Settings of training.
        ignores=(
            "block_size", "adaptive_mask_rate", "diff_loss_weight", "dlm_paradigm", "dlm_type", "enforce_mask", "intl_mask",
            "multi_sampling", "prefix_ratio", "random_length_prob", "tok_mask_half_life_ratio",
        ),
        tokenizer_class=Qwen2Tokenizer,
    )
)  # fmt: skip
