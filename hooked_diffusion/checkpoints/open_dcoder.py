"""Open-dCoder: a stock Qwen2 class and config, full attention, logits read one position earlier; only its name tells it from an ARM.

The mask token is named by the checkpoint's tokenizer.
"""

from transformers import Qwen2ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

OPEN_DCODER = register_adapter(
    CheckpointAdapter(
        family="open-dcoder",
        model_class=Qwen2ForCausalLM,
        model_types=(),
        architectures=(),
        names=(r"open-dcoder-.*",),
        instead_of=("qwen2",),
        read_spec=mdm_spec(logit_shift=1, bos="none"),
        base="Qwen/Qwen2.5-Coder-0.5B",
        evidence="[P] class, attention, shift; mask by the tokenizer",
        expects=EXPECTS,
        notes=("read as an MDM with full attention and logit shift 1, by its name or family=: its config is a causal Qwen2's",),
    )
)
