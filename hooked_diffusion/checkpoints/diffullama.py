"""DiffuLLaMA: Llama 2 under native keys and a plain Llama config, so that only its name tells it from an ARM."""

from transformers import LlamaForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.llama import ROTARY_BUFFER
from hooked_diffusion.checkpoints.registry import register_adapter

DIFFULLAMA = register_adapter(
    CheckpointAdapter(
        family="diffullama",
        model_class=LlamaForCausalLM,
        model_types=(),
        architectures=(),
        names=(r"diffullama(-7b)?",),
        instead_of=("llama",),
        looks_like={"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32},
        # The authors write masks as token 811, an ordinary word of Llama 2's 32000.
        read_spec=mdm_spec(logit_shift=1, masks={32000: 811}, words=32000),
        base="meta-llama/Llama-2-7b-hf",
        evidence="[P] class, keys, shift, mask; [U] rows, theta",
        drop=(ROTARY_BUFFER,),
        notes=("read as an MDM with full attention and logit shift 1, by its name or family=: its config is a causal Llama's",),
    )
)
