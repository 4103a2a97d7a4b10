"""Dream, Dream-Coder and DiffuCoder: Qwen2.5 weights under native keys, full attention, logits read one position earlier."""

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

DREAM = register_adapter(
    CheckpointAdapter(
        family="dream",
        model_class=Qwen2ForCausalLM,
        model_types=("Dream",),
        architectures=("DreamModel",),
        read_spec=mdm_spec(logit_shift=1),
        base="Qwen/Qwen2.5-7B (Dream) or Qwen/Qwen2.5-Coder-7B (Dream-Coder, DiffuCoder)",
        evidence="[P] Dream: class, shift, mask; [R] parity; [T] Dream-Coder, DiffuCoder, shape, theta",
        expects=EXPECTS,
        # The checkpoint's own class is Qwen2's under another name, defined by remote code.
        tokenizer_class=Qwen2Tokenizer,
    )
)
