"""OPDLM: Qwen3 under native keys, block-causal in blocks of 4, logits read at the position itself; and the ARM that it started from.

Its configs are SDAR's or A2D's, so only the name tells its blocks. `…-a2d-init` holds the ARM's own weights under a class that attends both
ways, before any training as an MDM.
"""

from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, Usual, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter
from hooked_diffusion.checkpoints.sdar import SDAR

MASK = (Usual("mask_token_id", 151669, rows=151936),)

OPDLM = register_adapter(
    CheckpointAdapter(
        family="opdlm",
        model_class=Qwen3ForCausalLM,
        model_types=(),
        architectures=(),
        names=(r"OPDLM-(?!.*a2d-init).*",),
        instead_of=("sdar", "a2d-qwen3"),
        read_spec=mdm_spec(logit_shift=0, block=4, block_field="block_size", bos="none"),
        base="Qwen/Qwen3 of the same size",
        evidence="[P] class, block, mask; [T] shift",
        told_by_name={"block_size": r"-bs?(\d+)(?![\w.])"},
        usual=(Usual("block_size", 4), *MASK),
        expects=EXPECTS,
        ignores=SDAR.ignores,
        tokenizer_class=Qwen2Tokenizer,
    )
)
A2D_INIT = register_adapter(
    CheckpointAdapter(
        family="a2d-init",
        model_class=Qwen3ForCausalLM,
        model_types=(),
        architectures=(),
        names=(r".*-a2d-init",),
        instead_of=("sdar", "a2d-qwen3"),
        read_spec=mdm_spec(logit_shift=1, bos="none"),
        base="Qwen/Qwen3 of the same size, whose weights it holds",
        evidence="[P] weights, class, mask",
        usual=MASK,
        expects=EXPECTS,
        ignores=SDAR.ignores,
        tokenizer_class=Qwen2Tokenizer,
        notes=("the ARM's own weights under full attention, not trained as an MDM: read with the ARM's logit shift of 1",),
    )
)
