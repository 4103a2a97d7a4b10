"""WeDLM and I-DLM: diffusion under causal attention. They are controls: what an MDM does without attention that looks ahead.

- WeDLM predicts a mask's token at the mask itself. Its decoder puts what is known before the masks and keeps the true positions, so a plain
  run, in which masks stand where they belong, sees only the text on their left.
- I-DLM reads logits one position earlier, as an ARM does, and fills masks at the end of the text.
"""

import dataclasses

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, Usual, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter
from hooked_diffusion.checkpoints.sdar import SDAR

NOTE = "diffusion under causal attention: a control beside a pair, not the MDM of one"

WEDLM_QWEN3 = register_adapter(
    CheckpointAdapter(
        family="wedlm-qwen3",
        model_class=Qwen3ForCausalLM,
        model_types=("wedlm",),
        architectures=("WeDLMForCausalLM",),
        when={"qk_norm": True},
        read_spec=mdm_spec(logit_shift=0, causal=True, bos="none"),
        base="Qwen/Qwen3-8B",
        evidence="[P] class, attention, shift; [T] keys, mask",
        usual=(Usual("mask_token_id", 151665, rows=151936),),
        expects=EXPECTS,
        flags={"qk_norm": True, "attention_bias": False},
        tokenizer_class=Qwen2Tokenizer,
        notes=(NOTE,),
    )
)
WEDLM_QWEN2 = register_adapter(
    dataclasses.replace(
        WEDLM_QWEN3,
        family="wedlm-qwen2",
        model_class=Qwen2ForCausalLM,
        when={"qk_norm": False},
        base="Qwen/Qwen2.5-7B",
        usual=(Usual("mask_token_id", 151665, rows=152064),),
        flags={"qk_norm": False, "attention_bias": True},
    )
)
I_DLM = register_adapter(
    CheckpointAdapter(
        family="i-dlm",
        model_class=Qwen3ForCausalLM,
        model_types=(),
        architectures=(),
        names=(r"I-DLM-\d+B.*",),
        instead_of=("sdar", "qwen3"),
        read_spec=mdm_spec(logit_shift=1, causal=True, bos="none"),
        base="Qwen/Qwen3-8B or Qwen/Qwen3-32B",
        evidence="[P] attention, shift; [T] class, keys, mask",
        usual=(Usual("mask_token_id", 151669, rows=151936),),
        expects=EXPECTS,
        flags={"use_regular_causal": True},
        ignores=SDAR.ignores,
        tokenizer_class=Qwen2Tokenizer,
        notes=(NOTE,),
    )
)
